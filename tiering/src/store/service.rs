//! Services of opendal as buckets: `opendal+SERVICE://NAME/PREFIX?OPTION=..`.
//!
//! Options are those of the service, by their own names. What the query leaves out comes from
//! `OPENDAL_SERVICE_OPTION` (`OPENDAL_WEBDAV_PASSWORD`), which is the place for secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use object_store_opendal::OpendalStore;
use opendal::{Configurator, Operator, services};
use serde::Serialize;
use url::Url;

use super::open::{Opened, bucket, invalid};
use super::options;
use super::server::Server;
use super::{Kind, StoreError};

/// What the place between `://` and the prefix is for a service.
#[derive(Clone, Copy)]
enum Place {
    /// Nothing.
    None,
    /// The whole path is a folder of this machine.
    Folder,
    /// A bucket, under this option.
    Bucket(&'static str),
    /// HTTPS, unless the option `endpoint` says where.
    Host,
}

/// What a URL must say where acks do not survive the machine.
const UNSYNCED: (&str, &str) = ("unsynced", "accepted");

/// Services that are built in.
const SERVICES: [&str; 8] = ["azblob", "cos", "fs", "gcs", "memory", "oss", "s3", "webdav"];

pub(super) fn open(url: &Url, service: &str, prefix: String) -> Result<Opened, StoreError> {
    let place = match service {
        "azblob" => Place::Bucket("container"),
        "cos" | "gcs" | "oss" | "s3" => Place::Bucket("bucket"),
        "fs" => Place::Folder,
        "memory" => Place::None,
        "webdav" => Place::Host,
        _ => {
            let known = SERVICES.join(", ");
            let why = format!("service {service:?} is not built in; write one of {known}");
            return Err(invalid(url, why));
        }
    };
    if service == "fs" && !url.query_pairs().any(|(name, value)| (&*name, &*value) == UNSYNCED) {
        let why = "opendal's fs writes files in their place and syncs no folder: a machine that \
                   stops can take acknowledged records. Write file:///FOLDER, or add \
                   ?unsynced=accepted if that does not matter";
        return Err(StoreError { kind: Kind::Unsupported, ..invalid(url, why) });
    }
    // Without it every request fails; safe to call again.
    opendal::install_default();
    let operator = match service {
        "azblob" => operator::<services::AzblobConfig>(url, service, place),
        "cos" => operator::<services::CosConfig>(url, service, place),
        "fs" => operator::<services::FsConfig>(url, service, place),
        "gcs" => operator::<services::GcsConfig>(url, service, place),
        "memory" => operator::<services::MemoryConfig>(url, service, place),
        "oss" => operator::<services::OssConfig>(url, service, place),
        "s3" => operator::<services::S3Config>(url, service, place),
        _ => operator::<services::WebdavConfig>(url, service, place),
    }?;
    let capability = operator.info().capability();
    if !capability.write_with_if_not_exists {
        let why = format!(
            "opendal's {service} has no create-if-absent, which Levee needs: use a store that \
             answers If-None-Match: * on PUT, or file:///FOLDER"
        );
        return Err(StoreError { kind: Kind::Unsupported, ..invalid(url, why) });
    }
    let caveat = (service == "fs").then_some(
        "opendal writes files in their place: a machine that stops can leave half an object \
         behind, which Levee takes for damage. file:// cannot",
    );
    let prefix = if matches!(place, Place::Folder) { String::new() } else { prefix };
    let server = Server::at(&super::open::shown(url));
    let lists_in_order = capability.list_with_recursive;
    let opened = Opened::new(Service::new(operator), prefix);
    Ok(Opened { lists_in_order, caveat, server: Some(server), ..opened })
}

/// The service as the URL and the environment want it.
fn operator<C>(url: &Url, service: &str, place: Place) -> Result<Operator, StoreError>
where
    C: Configurator + Serialize + Default,
{
    let mut names = names_of(&C::default()).map_err(|error| invalid(url, error))?;
    // Said by the place, or breaking what a create needs: with a folder of its own for unfinished
    // files, `fs` looks first and renames afterwards, and two creates can both succeed.
    let of_place = ["root", "bucket", "container", "atomic_write_dir"];
    names.retain(|name| !of_place.contains(&&name[..]));
    if service == "fs" {
        names.push(UNSYNCED.0.to_owned());
    }
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut settings = from_environment(service, &known);
    settings.extend(options::pairs(url, &known)?);
    settings.remove(UNSYNCED.0);
    match place {
        Place::None => {}
        Place::Folder => {
            let folder = url
                .to_file_path()
                .map_err(|()| invalid(url, "names no folder: write opendal+fs:///FOLDER"))?;
            settings.insert("root".into(), folder.to_string_lossy().into_owned());
        }
        Place::Bucket(option) => {
            settings.insert(option.into(), bucket(url)?.into());
        }
        Place::Host => {
            let host = bucket(url)?;
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let endpoint = || format!("https://{host}{port}");
            settings.entry("endpoint".into()).or_insert_with(endpoint);
        }
    }
    let config = C::from_iter(settings);
    // What the library says of a value may repeat it.
    let operator = config.and_then(|config| Operator::new(config.into_builder()));
    operator.map_err(|error| invalid(url, why(error)))
}

/// The options of a service, by the fields of its settings.
fn names_of(config: &impl Serialize) -> Result<Vec<String>, String> {
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => Ok(fields.into_iter().map(|(k, _)| k).collect()),
        _ => Err("the options of this service cannot be told".into()),
    }
}

fn from_environment(service: &str, known: &[&str]) -> BTreeMap<String, String> {
    let variable = |name: &str| {
        let variable = format!("OPENDAL_{service}_{name}").to_ascii_uppercase();
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
        Some((name.to_owned(), value))
    };
    known.iter().filter_map(|name| variable(name)).collect()
}

/// The sentence of an error, and of what caused it.
fn why(error: opendal::Error) -> String {
    let mut text = error.message().to_owned();
    if let Some(cause) = std::error::Error::source(&error) {
        text.push_str(&format!(": {cause}"));
    }
    text
}

/// A service as object store. Listings are made here: those of the bridge show folders as objects,
/// and no sizes where a service lists without them.
struct Service {
    bridge: OpendalStore,
    operator: Operator,
}

impl Service {
    fn new(operator: Operator) -> Self {
        Self { bridge: OpendalStore::new(operator.clone()), operator }
    }

    /// Objects below a folder, after a key if one is named.
    fn listed(
        &self,
        folder: Option<&Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = folder.map(|path| format!("{path}/")).unwrap_or_default();
        let operator = self.operator.clone();
        let entries = async move {
            let mut list = operator.lister_with(&folder).recursive(true);
            if let Some(after) = &after
                && operator.info().capability().list_with_start_after
            {
                list = list.start_after(after.as_ref());
            }
            let entries = list.await.map_err(|error| failed(error, &folder))?;
            Ok::<_, Error>(entries.map_err(move |error| failed(error, &folder)).try_filter_map(
                move |entry| {
                    let (operator, after) = (operator.clone(), after.clone());
                    async move { object(&operator, entry, after.as_ref()).await }
                },
            ))
        };
        futures::stream::once(entries).try_flatten().boxed()
    }
}

/// What a listing says of an entry; nothing of folders, of what is not after a key, and of what is
/// gone meanwhile.
async fn object(
    operator: &Operator,
    entry: opendal::Entry,
    after: Option<&Path>,
) -> Result<Option<ObjectMeta>> {
    let (path, listed) = entry.into_parts();
    let location = Path::from(&path[..]);
    if !listed.is_file() || after.is_some_and(|after| location <= *after) {
        return Ok(None);
    }
    let told = match listed.last_modified() {
        Some(_) => listed,
        None => match operator.stat(&path).await {
            Ok(told) => told,
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error, &path)),
        },
    };
    let modified = told.last_modified().map(|time| SystemTime::from(time.into_inner()));
    Ok(Some(ObjectMeta {
        location,
        last_modified: modified.unwrap_or(SystemTime::UNIX_EPOCH).into(),
        size: told.content_length(),
        e_tag: None,
        version: None,
    }))
}

fn failed(error: opendal::Error, path: &str) -> Error {
    match error.kind() {
        opendal::ErrorKind::NotFound => {
            Error::NotFound { path: path.to_owned(), source: Box::new(error) }
        }
        opendal::ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: path.to_owned(), source: Box::new(error) }
        }
        _ => Error::Generic { store: "opendal", source: Box::new(error) },
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.bridge)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bridge.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Service {
    async fn put_opts(&self, at: &Path, body: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.bridge.put_opts(at, body, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bridge.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.bridge.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        which: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.bridge.delete_stream(which)
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(folder, None)
    }

    fn list_with_offset(
        &self,
        folder: Option<&Path>,
        after: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(folder, Some(after.clone()))
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> Result<ListResult> {
        self.bridge.list_with_delimiter(folder).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.bridge.copy_opts(from, to, how).await
    }
}
