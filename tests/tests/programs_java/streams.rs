//! Kafka Streams with exactly_once_v2: counts are exact although everything is killed.

use std::collections::BTreeMap;
use std::path::Path;

use levee_tests::programs::{Bucket, Levee, Program, turn};

use crate::jvm::{TOOLS, Tools, java};

const WORDS: [&str; 7] = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"];
const LINES: usize = 1000;
const WORDS_OF_LINE: usize = 3;
const PORTION: usize = LINES * WORDS_OF_LINE;

/// Lines of three words; how often each word comes differs.
fn lines(portion: usize) -> String {
    let word = |n: usize| WORDS[(n * n + n / 5 + portion) % WORDS.len()];
    let line = |n: usize| [word(n), word(n + 1), word(3 * n + 2)].join(" ");
    (0..LINES).map(line).collect::<Vec<_>>().join("\n")
}

fn word_count(server: &str, state: &Path) -> Program {
    let mut command = java("WordCount");
    command.arg(server).arg(state).args(["lines", "words"]);
    Program::start("word count", command)
}

#[tokio::test(flavor = "multi_thread")]
async fn word_count_is_exact_although_broker_and_application_are_killed() {
    let _turn = turn().await;
    let mut levee = Levee::start(Bucket::Minio, &[]).await;
    let server = levee.kafka().to_owned();
    let state = levee.folder("state");
    let mut tools = Tools::start(&server);
    tools.run("TopicCommand", "--create --topic lines --partitions 2").await.ok();
    tools.run("TopicCommand", "--create --topic words --partitions 1").await.ok();
    let mut command = java(&format!("{TOOLS}.consumer.ConsoleConsumer"));
    command.args(["--bootstrap-server", &server, "--topic", "words"]);
    // Without a group: it reads on where it was, whatever becomes of the broker.
    command.args(["--partition", "0", "--offset", "earliest"]);
    command.args(["--isolation-level", "read_committed"]);
    command.args(["--formatter-property", "print.key=true", "--formatter-property"]);
    command.arg("value.deserializer=org.apache.kafka.common.serialization.LongDeserializer");
    let mut counts = Program::start("reader of counts", command);

    tools.feed("ConsoleProducer", "--topic lines", &lines(0)).await.ok();
    let counting = word_count(&server, &state);
    counts.wrote(PORTION / 4).await;
    levee.broker.kill9().await;
    levee.broker.restart().await;
    counts.wrote(PORTION).await;
    tools.feed("ConsoleProducer", "--topic lines", &lines(1)).await.ok();
    counts.wrote(PORTION + PORTION / 4).await;
    counting.kill9().await;
    tools.feed("ConsoleProducer", "--topic lines", &lines(2)).await.ok();
    let counting = word_count(&server, &state);
    counts.wrote(3 * PORTION).await;
    counting.terminate().await;

    let mut expected = BTreeMap::<String, usize>::new();
    for portion in 0..3 {
        for word in lines(portion).split_whitespace() {
            *expected.entry(word.to_owned()).or_default() += 1;
        }
    }
    // A consumer's own deadline ends it: whatever it has not read is not there.
    let counted = counts.terminate().await.out;
    let mut seen = BTreeMap::<String, usize>::new();
    for line in counted.lines() {
        let (word, count) = line.split_once('\t').expect("a word and its count");
        let count: usize = count.parse().expect("a count");
        let last = seen.insert(word.to_owned(), count).unwrap_or_default();
        assert_eq!(count, last + 1, "the counts of {word} are 1, 2, 3 and so on");
    }
    assert_eq!(seen, expected);
}
