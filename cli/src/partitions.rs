//! Lists of partitions, as people write them: `0`, `0,2,5-7`.

/// More than any topic has is a slip of the finger.
const PARTITIONS_MAX: u32 = levee_proto::limits::PARTITIONS_PER_TOPIC_MAX;

/// Sorted, each once. Empty: all there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partitions(Vec<u32>);

pub fn partitions(text: &str) -> Result<Partitions, String> {
    if text == "all" {
        return Ok(Partitions::default());
    }
    let mut found = Vec::new();
    for part in text.split(',') {
        let wrong = || format!("{part:?} is no partition; write 0, 0,2,5-7 or all");
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= PARTITIONS_MAX {
            return Err(wrong());
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Ok(Partitions(found))
}

impl Partitions {
    /// Of a topic that has `count`; the first that it has not, else.
    pub fn of(&self, count: u32) -> Result<Vec<u32>, u32> {
        match self.0.last() {
            None => Ok((0..count).collect()),
            Some(&last) if last >= count => Err(last),
            Some(_) => Ok(self.0.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_partitions() {
        let of = |text: &str| partitions(text).unwrap().of(8);
        assert_eq!(of("5-6,0,2,0"), Ok(vec![0, 2, 5, 6]));
        assert_eq!(of("all"), Ok((0..8).collect()));
        assert_eq!(of("7,8"), Err(8));
        for text in ["", "-1", "3-1", "1,", "a", "0-4294967295", "1-2-3"] {
            assert!(partitions(text).is_err(), "{text}");
        }
    }
}
