//! Command line tools: what they print is what an operator sees.

use levee_tests::programs::{Bucket, Levee, turn};

use crate::jvm::Tools;

const GROUPS: &str = "consumer.group.ConsumerGroupCommand";

/// Lines of words, sorted.
fn table(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut lines: Vec<_> = lines.filter(|words| !words.is_empty()).collect();
    lines.sort();
    lines
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines
}

/// A number of a tool's output: what stands after `before`, up to the next blank.
fn number_before(text: &str, after: &str) -> f64 {
    let before = text.split(after).next().expect("something").trim_end();
    let number = before.rsplit([' ', ',']).next().expect("a number");
    number.parse().unwrap_or_else(|_| panic!("a number before `{after}` in: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_their_settings() {
    let _turn = turn().await;
    let levee = Levee::start(Bucket::Folder, &[]).await;
    let mut tools = Tools::start(levee.kafka());

    let made = tools.run("TopicCommand", "--create --topic a --partitions 3").await.ok();
    assert_eq!(made.trim(), "Created topic a.");
    let more =
        "--create --topic b --partitions 1 --replication-factor 1 --config retention.ms=3600000";
    tools.run("TopicCommand", more).await.ok();
    assert_eq!(sorted(&tools.run("TopicCommand", "--list").await.ok()), ["a", "b"]);
    let again = tools.run("TopicCommand", "--create --topic a").await.failed();
    assert!(again.contains("TopicExistsException"), "{again}");
    let bad = tools.run("TopicCommand", "--create --topic a/b").await.failed();
    assert!(bad.contains("InvalidTopicException"), "{bad}");
    tools.run("TopicCommand", "--alter --topic a --partitions 5").await.ok();
    let fewer = tools.run("TopicCommand", "--alter --topic a --partitions 2").await.failed();
    assert!(fewer.contains("InvalidPartitionsException"), "{fewer}");
    let shown = tools.run("TopicCommand", "--describe --topic a").await.ok();
    assert!(shown.contains("PartitionCount: 5"), "{shown}");
    assert_eq!(shown.matches("Leader: 1\tReplicas: 1\tIsr: 1").count(), 5, "{shown}");
    let shown = tools.run("TopicCommand", "--describe --topic b").await.ok();
    assert!(shown.contains("retention.ms=3600000"), "{shown}");
    let none = tools.run("TopicCommand", "--describe --topic c").await.failed();
    assert!(none.contains("Topic 'c' does not exist"), "{none}");

    let config = "kafka.admin.ConfigCommand";
    let of_a = "--entity-type topics --entity-name a";
    let set = format!("--alter {of_a} --add-config retention.bytes=1000000,max.message.bytes=2000");
    let done = tools.run(config, &set).await.ok();
    assert_eq!(done.trim(), "Completed updating config for topic a.");
    let shown = tools.run(config, &format!("--describe {of_a}")).await.ok();
    let line = "retention.bytes=1000000 sensitive=false \
                synonyms={DYNAMIC_TOPIC_CONFIG:retention.bytes=1000000";
    assert!(shown.contains(line), "{shown}");
    assert!(shown.contains("max.message.bytes=2000 sensitive=false"), "{shown}");
    tools.run(config, &format!("--alter {of_a} --delete-config retention.bytes")).await.ok();
    let shown = tools.run(config, &format!("--describe {of_a}")).await.ok();
    assert!(!shown.contains("retention.bytes"), "{shown}");
    let all = tools.run(config, &format!("--describe --all {of_a}")).await.ok();
    assert!(all.contains("cleanup.policy=delete"), "{all}");
    let unknown =
        tools.run(config, &format!("--alter {of_a} --add-config no.such=1")).await.failed();
    assert!(unknown.contains("InvalidConfigurationException: no.such"), "{unknown}");
    let value = format!("--alter {of_a} --add-config retention.ms=soon");
    let unknown = tools.run(config, &value).await.failed();
    assert!(unknown.contains("InvalidConfigurationException"), "{unknown}");
    assert!(unknown.contains("retention.ms") && unknown.contains("soon"), "{unknown}");

    let large = format!("{}\n", "x".repeat(4000));
    let refused = tools.feed("ConsoleProducer", "--topic a --sync", &large).await;
    assert!(refused.err.contains("RecordTooLargeException"), "{}{}", refused.out, refused.err);

    tools.run("TopicCommand", "--delete --topic a").await.ok();
    assert_eq!(sorted(&tools.run("TopicCommand", "--list").await.ok()), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn console_producer_and_consumers_of_both_protocols_and_their_groups() {
    let _turn = turn().await;
    let levee = Levee::start(Bucket::Minio, &[]).await;
    let mut tools = Tools::start(levee.kafka());
    tools.run("TopicCommand", "--create --topic t --partitions 3").await.ok();
    let records: Vec<String> = (0..100).map(|n| format!("key{n}\tvalue {n}")).collect();
    let produce = "--topic t --reader-property parse.key=true --compression-codec zstd";
    tools.feed("ConsoleProducer", produce, &records.join("\n")).await.ok();
    let mut expected: Vec<&str> = records.iter().map(String::as_str).collect();
    expected.sort_unstable();

    let read = "--topic t --from-beginning --formatter-property print.key=true";
    for protocol in ["classic", "consumer"] {
        let group = format!("--group {protocol} --command-property group.protocol={protocol}");
        let args = format!("{read} --max-messages 100 {group}");
        let out = tools.run("consumer.ConsoleConsumer", &args).await.ok();
        assert_eq!(sorted(&out), expected, "{protocol}");
        // A second run of the group has nothing left to read.
        let args = format!("{read} --timeout-ms 3000 {group}");
        let again = tools.run("consumer.ConsoleConsumer", &args).await;
        assert_eq!(sorted(&again.out), [""; 0], "{protocol}: {}", again.err);
        let shown = tools.run(GROUPS, &format!("--describe --group {protocol}")).await.ok();
        let rows = table(&shown);
        let rows: Vec<_> = rows.iter().filter(|row| row[0] == protocol).collect();
        assert_eq!(rows.len(), 3, "{shown}");
        let at: i64 = rows.iter().map(|row| row[3].parse::<i64>().expect("an offset")).sum();
        assert_eq!(at, 100, "{shown}");
        assert!(rows.iter().all(|row| row[3] == row[4] && row[5] == "0"), "no lag: {shown}");
        let state = tools.run(GROUPS, &format!("--describe --group {protocol} --state")).await.ok();
        assert!(state.contains("Empty"), "{state}");
    }

    assert_eq!(sorted(&tools.run(GROUPS, "--list").await.ok()), ["classic", "consumer"]);
    let types = tools.run(GROUPS, "--list --type").await.ok();
    let types = table(&types);
    assert!(types.contains(&vec!["classic", "Classic"]), "{types:?}");
    assert!(types.contains(&vec!["consumer", "Consumer"]), "{types:?}");

    for group in ["classic", "consumer"] {
        let reset = format!("--reset-offsets --group {group} --topic t --to-offset 5 --execute");
        let rows = tools.run(GROUPS, &reset).await.ok();
        let rows = table(&rows);
        assert_eq!(
            rows.iter().filter(|row| row[0] == group && row[3] == "5").count(),
            3,
            "{rows:?}"
        );
        let args = format!(
            "--topic t --max-messages 85 --group {group} --command-property group.protocol={group}"
        );
        let out = tools.run("consumer.ConsoleConsumer", &args).await.ok();
        assert_eq!(sorted(&out).len(), 85, "{out}");
    }
    let shown =
        tools.run(GROUPS, "--reset-offsets --all-topics --group classic --shift-by -2").await.ok();
    assert!(shown.contains("NEW-OFFSET"), "{shown}");

    let gone = tools.run(GROUPS, "--delete-offsets --group consumer --topic t").await.ok();
    assert_eq!(gone.matches("Successful").count(), 3, "{gone}");
    let gone = tools.run(GROUPS, "--delete --group classic").await.ok();
    assert!(gone.contains("('classic') was successful"), "{gone}");
    assert_eq!(sorted(&tools.run(GROUPS, "--list").await.ok()), ["consumer"]);
    let none = tools.run(GROUPS, "--describe --group classic").await;
    assert!(none.out.contains("Group classic not found"), "{}{}", none.out, none.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_deleted_records_and_what_is_tiered() {
    let _turn = turn().await;
    let levee = Levee::start(Bucket::Minio, &[]).await;
    let mut tools = Tools::start(levee.kafka());
    tools.run("TopicCommand", "--create --topic t --partitions 2").await.ok();
    let perf = "--topic t --num-records 4000 --record-size 500 --throughput -1 \
                --command-property acks=all";
    let out = tools.run("ProducerPerformance", perf).await.ok();
    assert_eq!(number_before(&out, " records sent") as i64, 4000, "{out}");

    let offsets = async |tools: &mut Tools, time: &str| -> Vec<i64> {
        let out = tools.run("GetOffsetShell", &format!("--topic t --time {time}")).await.ok();
        let line = |line: &&str| line.rsplit(':').next().and_then(|offset| offset.parse().ok());
        sorted(&out).iter().map(|text| line(text).unwrap_or_else(|| panic!("{out}"))).collect()
    };
    let ends = offsets(&mut tools, "-1").await;
    assert_eq!(ends.iter().sum::<i64>(), 4000);
    assert_eq!(offsets(&mut tools, "latest").await, ends);
    assert_eq!(offsets(&mut tools, "-2").await, [0, 0]);
    assert_eq!(offsets(&mut tools, "earliest").await, [0, 0]);
    let newest = offsets(&mut tools, "max-timestamp").await;
    assert_eq!(newest.len(), 2);
    assert!(newest.iter().zip(&ends).all(|(newest, end)| newest < end), "{newest:?} {ends:?}");
    assert_eq!(offsets(&mut tools, "-3").await, newest);
    // A time in the past gives the first record, one in the future none.
    assert_eq!(offsets(&mut tools, "1700000000000").await, [0, 0]);
    assert_eq!(offsets(&mut tools, "99999999999999").await, [0; 0]);
    // All of it reaches the bucket; the last tiered offset is that of the last record.
    for _ in 0..600 {
        let tiered = offsets(&mut tools, "latest-tiered").await;
        if tiered.iter().map(|offset| offset + 1).eq(ends.iter().copied()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(offsets(&mut tools, "-5").await, [ends[0] - 1, ends[1] - 1]);
    assert_eq!(offsets(&mut tools, "earliest-pending-upload").await, ends);
    let local = offsets(&mut tools, "earliest-local").await;
    assert!(local.iter().zip(&ends).all(|(local, end)| (0..=*end).contains(local)), "{local:?}");

    let wanted = r#"{"version":1,"partitions":[
        {"topic":"t","partition":0,"offset":100},{"topic":"t","partition":1,"offset":-1}]}"#;
    let file = levee.file("delete.json", wanted);
    let args = format!("--offset-json-file {}", file.display());
    let out = tools.run("DeleteRecordsCommand", &args).await.ok();
    assert!(out.contains("partition: t-0\tlow_watermark: 100"), "{out}");
    assert!(out.contains(&format!("partition: t-1\tlow_watermark: {}", ends[1])), "{out}");
    assert_eq!(offsets(&mut tools, "-2").await, [100, ends[1]]);
    let beyond = levee.file(
        "beyond.json",
        r#"{"version":1,"partitions":[{"topic":"t","partition":0,"offset":999999}]}"#,
    );
    let args = format!("--offset-json-file {}", beyond.display());
    let out = tools.run("DeleteRecordsCommand", &args).await;
    assert!(out.out.contains("OffsetOutOfRangeException"), "{}{}", out.out, out.err);

    let left = ends[0] - 100;
    let args = format!("--topic t --num-records {left} --timeout 30000");
    let out = tools.run("ConsumerPerformance", &args).await.ok();
    let row = out.lines().last().expect("a row");
    assert_eq!(row.split(", ").nth(4), Some(left.to_string().as_str()), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_features_log_dirs_and_the_cluster() {
    let _turn = turn().await;
    let levee = Levee::start(Bucket::Folder, &[]).await;
    let mut tools = Tools::start(levee.kafka());
    tools.run("TopicCommand", "--create --topic t --partitions 1").await.ok();
    let perf = "--topic t --num-records 2000 --record-size 100 --throughput 10000 \
                --transactional-id perf --transaction-duration-ms 50";
    let out = tools.run("ProducerPerformance", perf).await.ok();
    assert_eq!(number_before(&out, " records sent") as i64, 2000, "{out}");
    let committed =
        "--topic t --from-beginning --max-messages 2000 --isolation-level read_committed";
    let out = tools.run("consumer.ConsoleConsumer", committed).await.ok();
    assert_eq!(out.lines().count(), 2000);

    let listed = tools.run("TransactionsCommand", "list").await.ok();
    let row = table(&listed).into_iter().find(|row| row[0] == "perf").expect("it is listed");
    assert_eq!((row[1], row[3]), ("1", "CompleteCommit"), "{listed}");
    let producer = row[2].to_owned();
    let shown = tools.run("TransactionsCommand", "describe --transactional-id perf").await.ok();
    assert!(shown.contains("CompleteCommit") && shown.contains(&producer), "{shown}");
    let args = "describe-producers --topic t --partition 0";
    let shown = tools.run("TransactionsCommand", args).await.ok();
    let row = table(&shown).into_iter().find(|row| row[0] == producer).expect("it wrote to t");
    assert_eq!(row.last(), Some(&"None"), "no transaction is open: {shown}");
    let hanging = tools.run("TransactionsCommand", "find-hanging --broker-id 1").await.ok();
    assert_eq!(hanging.lines().count(), 1, "a heading alone: {hanging}");
    let none = tools.run("TransactionsCommand", "describe --transactional-id none").await.failed();
    assert!(none.contains("failed because the ID could not be found"), "{none}");

    let shown = tools.run("FeatureCommand", "describe").await.ok();
    let rows = table(&shown);
    let level = |name: &str| {
        let row = rows.iter().find(|row| row[1] == name).expect("a feature");
        row[7].to_owned()
    };
    assert_eq!((level("transaction.version"), level("group.version")), ("2".into(), "1".into()));
    let out = tools.run("LogDirsCommand", "--describe --topic-list t").await.ok();
    let json: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let partition = &json["brokers"][0]["logDirs"][0]["partitions"][0];
    assert_eq!(partition["partition"], "t-0", "{out}");
    assert!(partition["size"].as_i64().unwrap() > 2000 * 100, "{out}");
    let out = tools.run("BrokerApiVersionsCommand", "").await.ok();
    assert!(out.contains("Produce(0): 0 to 13 [usable: 13]"), "{out}");
    let out = tools.run("MetadataQuorumCommand", "describe --status").await.ok();
    assert!(out.contains("LeaderId:               1"), "{out}");
}
