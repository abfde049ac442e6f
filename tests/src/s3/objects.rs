//! The objects, and what each operation does to them.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::Response;

use super::request::{Body, Op, Operation, answer, error, ok};

/// Objects of one answer to a LIST.
const PAGE: usize = 1000;

#[derive(Default)]
pub(super) struct Objects {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    begun: u64,
    pub ignores_conditions: bool,
}

impl Objects {
    pub(super) fn keys(&self, part: &str) -> Vec<String> {
        self.objects.keys().filter(|key| key.contains(part)).cloned().collect()
    }

    pub(super) fn flip(&mut self, key: &str, at: usize) {
        let object = self.objects.get_mut(key).expect("the object is there");
        let mut bytes = object.to_vec();
        bytes[at] ^= 1;
        *object = bytes.into();
    }

    pub(super) fn apply(&mut self, request: &Operation) -> Response<Body> {
        match request.op {
            Op::Put => self.put(request),
            Op::Get => self.get(request),
            Op::Head => self.head(request),
            Op::List => self.list(request),
            Op::Delete => self.delete(request),
            Op::Begin => self.begin(request),
            Op::Part => self.part(request),
            Op::Complete => self.complete(request),
            Op::Abort => {
                self.uploads.remove(request.asks("uploadId").unwrap_or_default());
                answer(204, Bytes::new())
            }
        }
    }

    fn put(&mut self, request: &Operation) -> Response<Body> {
        let only_new = request.header("if-none-match") == Some("*") && !self.ignores_conditions;
        if only_new && self.objects.contains_key(&request.key) {
            return error(412, "PreconditionFailed", "it exists");
        }
        self.objects.insert(request.key.clone(), request.body.clone());
        tagged(ok(""))
    }

    fn get(&self, request: &Operation) -> Response<Body> {
        let Some(object) = self.objects.get(&request.key) else {
            return error(404, "NoSuchKey", "no such key");
        };
        let Some(range) = request.header("range") else {
            return tagged(ok(object.clone()));
        };
        let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
        let from = from.parse::<usize>().unwrap_or_default();
        let to = to.parse::<usize>().map_or(object.len(), |to| to + 1).min(object.len());
        if from >= object.len() {
            return error(416, "InvalidRange", "beyond the end");
        }
        let mut part = answer(206, object.slice(from..to));
        let shown = format!("bytes {from}-{}/{}", to - 1, object.len());
        part.headers_mut().insert("content-range", shown.parse().expect("a header"));
        tagged(part)
    }

    fn head(&self, request: &Operation) -> Response<Body> {
        match self.objects.get(&request.key) {
            // The body is not sent; its length is.
            Some(object) => tagged(ok(object.clone())),
            None => answer(404, Bytes::new()),
        }
    }

    fn list(&self, request: &Operation) -> Response<Body> {
        let prefix = request.asks("prefix").unwrap_or_default();
        let after = request.asks("continuation-token").or(request.asks("start-after"));
        let all = self.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let mut found: Vec<_> =
            all.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).collect();
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let mut xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        for (key, object) in &found {
            xml.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>\"t\"</ETag><Size>{}</Size></Contents>",
                object.len()
            ));
        }
        if let (true, Some((last, _))) = (more, found.last()) {
            xml.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
        }
        ok(xml + "</ListBucketResult>")
    }

    /// One object, or many that the body names. Levee's keys need no escapes in XML.
    fn delete(&mut self, request: &Operation) -> Response<Body> {
        if request.asks("delete").is_none() {
            self.objects.remove(&request.key);
            return answer(204, Bytes::new());
        }
        let body = String::from_utf8_lossy(&request.body);
        let named = body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        let mut xml = String::from("<DeleteResult>");
        for key in named {
            self.objects.remove(key);
            xml.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
        }
        ok(xml + "</DeleteResult>")
    }

    fn begin(&mut self, request: &Operation) -> Response<Body> {
        self.begun += 1;
        let id = format!("u{}", self.begun);
        self.uploads.insert(id.clone(), BTreeMap::new());
        ok(format!(
            "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{}</Key>\
             <UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            request.key
        ))
    }

    fn part(&mut self, request: &Operation) -> Response<Body> {
        let id = request.asks("uploadId").unwrap_or_default();
        let number = request.asks("partNumber").and_then(|n| n.parse().ok()).unwrap_or_default();
        match self.uploads.get_mut(id) {
            Some(parts) => {
                parts.insert(number, request.body.clone());
                tagged(ok(""))
            }
            None => error(404, "NoSuchUpload", "no such upload"),
        }
    }

    fn complete(&mut self, request: &Operation) -> Response<Body> {
        let id = request.asks("uploadId").unwrap_or_default();
        let Some(parts) = self.uploads.remove(id) else {
            return error(404, "NoSuchUpload", "no such upload");
        };
        let whole: Vec<u8> = parts.into_values().flatten().collect();
        self.objects.insert(request.key.clone(), whole.into());
        ok(format!(
            "<CompleteMultipartUploadResult><Location>x</Location><Bucket>bucket</Bucket>\
             <Key>{}</Key><ETag>\"t\"</ETag></CompleteMultipartUploadResult>",
            request.key
        ))
    }
}

fn tagged(mut answer: Response<Body>) -> Response<Body> {
    let headers = answer.headers_mut();
    headers.insert("etag", "\"t\"".parse().expect("a header"));
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    headers.insert("last-modified", date.parse().expect("a header"));
    answer
}
