//! Two services with Spring Boot, as in a tutorial: orders are taken in transactions, the inventory
//! answers them, what cannot be handled goes to the dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command as Plain;
use std::time::{Duration, Instant};

use levee_tests::programs::{Bucket, LIMIT, Levee, Program, files, named, sources, turn};
use levee_tests::tools::{installed, run};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::http;
use crate::jvm::{FLAGS, Tools, needs_java};

/// What the inventory begins with.
const STOCK: [(&str, i64); 3] = [("book", 40), ("lamp", 25), ("desk", 10)];

/// The folder in which both services are built.
fn built() -> PathBuf {
    needs_java();
    let sources = sources("spring");
    let all = files(&sources);
    let install = |folder: &Path| {
        for file in &all {
            let to = folder.join(file.strip_prefix(&sources).expect("a file of the folder"));
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            std::fs::copy(file, to).expect("copied");
        }
        run(Plain::new("mvn").args(["-B", "-q", "package", "-f"]).arg(folder)).map(drop)
    };
    installed(&named("spring-services", &all), install).unwrap_or_else(|why| panic!("{why}"))
}

/// A service that serves, and its port.
async fn service(name: &str, server: &str) -> (Program, u16) {
    let jar = built().join(format!("{name}/target/{name}-1.jar"));
    let mut command = Command::new("java");
    command.args(FLAGS).arg("-jar").arg(jar).arg("--server.port=0");
    command.arg(format!("--spring.kafka.bootstrap-servers={server}"));
    let mut program = Program::start(name, command);
    let line = program.says("Tomcat started on port ").await;
    let port = line.split("on port ").nth(1).and_then(|rest| rest.split(' ').next());
    let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    program.says("Started ").await;
    (program, port)
}

/// What the services should have made of the orders so far.
#[derive(Default)]
struct Expected {
    stock: BTreeMap<String, i64>,
    answers: BTreeMap<String, bool>,
    /// Values of the topic `orders` by item, oldest first.
    orders: BTreeMap<String, Vec<Value>>,
}

impl Expected {
    fn place(&mut self, order: &Value) {
        let text = |name: &str| order[name].as_str().expect("text").to_owned();
        self.orders.entry(text("item")).or_default().push(order.clone());
        let Some(left) = self.stock.get_mut(&text("item")) else { return };
        let quantity = order["quantity"].as_i64().expect("a number");
        let is_there = *left >= quantity;
        *left -= if is_there { quantity } else { 0 };
        self.answers.insert(text("id"), is_there);
    }

    fn confirmed(&self) -> BTreeSet<String> {
        let confirmed = self.answers.iter().filter(|answer| *answer.1);
        confirmed.map(|answer| answer.0.clone()).collect()
    }
}

/// Some orders, and between them some that the service gives up when the broker has them already.
async fn place(port: u16, numbers: std::ops::Range<usize>, expected: &mut Expected) {
    for n in numbers {
        let item = STOCK[n % STOCK.len()].0;
        let order = json!({ "id": format!("order-{n}"), "item": item, "quantity": n % 4 });
        let (status, body) =
            http::ask(port, "POST", "/orders", &order.to_string()).await.expect("it answers");
        match n % 4 {
            0 => assert_eq!(status, 400, "{body}"),
            _ => {
                assert_eq!(status, 201, "{order}: {body}");
                expected.place(&order);
            }
        }
    }
}

/// Keys and values of a topic, as its partitions have them.
async fn content(tools: &mut Tools, topic: &str, isolation: &str) -> Vec<(String, String)> {
    let args = format!(
        "--topic {topic} --from-beginning --isolation-level {isolation} --timeout-ms 3000 \
         --formatter-property print.key=true"
    );
    let out = tools.run("consumer.ConsoleConsumer", &args).await.out;
    let record = |line: &str| {
        let (key, value) = line.split_once('\t').expect("a key and a value");
        (key.to_owned(), value.to_owned())
    };
    out.lines().map(record).collect()
}

/// Reads a topic until `is_whole`.
async fn until(
    tools: &mut Tools,
    topic: &str,
    is_whole: impl Fn(&[(String, String)]) -> bool,
) -> Vec<(String, String)> {
    let started = Instant::now();
    loop {
        let records = content(tools, topic, "read_committed").await;
        if is_whole(&records) {
            return records;
        }
        assert!(started.elapsed() < LIMIT, "{topic} has {records:?}");
    }
}

fn keys(records: &[(String, String)]) -> BTreeSet<String> {
    records.iter().map(|record| record.0.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn order_and_inventory_services_agree_although_broker_and_service_are_killed() {
    let _turn = turn().await;
    let mut levee = Levee::start(Bucket::Minio, &[]).await;
    let server = levee.kafka().to_owned();
    let mut tools = Tools::start(&server);
    let (orders, orders_port) = service("order-service", &server).await;
    let (_inventory, inventory_port) = service("inventory-service", &server).await;
    let mut expected = Expected::default();
    expected.stock.extend(STOCK.map(|(item, count)| (item.to_owned(), count)));

    tools.feed("ConsoleProducer", "--topic orders", "this is not JSON").await.ok();
    let ghost = json!({ "id": "ghost", "item": "castle", "quantity": 1 });
    http::post(orders_port, "/orders", &ghost).await;
    expected.place(&ghost);
    place(orders_port, 0..20, &mut expected).await;
    let dead = until(&mut tools, "orders-dlt", |dead| dead.len() >= 2).await;
    let dead: BTreeMap<String, String> = dead.into_iter().collect();
    assert_eq!(dead["null"], "this is not JSON");
    assert_eq!(serde_json::from_str::<Value>(&dead["castle"]).unwrap(), ghost);

    levee.broker.kill9().await;
    levee.broker.restart().await;
    place(orders_port, 20..40, &mut expected).await;
    orders.kill9().await;
    let (_orders, orders_port) = service("order-service", &server).await;
    place(orders_port, 40..60, &mut expected).await;

    let started = Instant::now();
    let wanted = json!(expected.answers);
    while http::get(inventory_port, "/answers").await != wanted {
        assert!(started.elapsed() < LIMIT, "all orders are answered");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(http::get(inventory_port, "/stock").await, json!(expected.stock));

    // Every shipment comes from one result, in one transaction.
    let confirmed = expected.confirmed();
    let shipped = until(&mut tools, "shipments", |all| keys(all) == confirmed).await;
    let results = content(&mut tools, "order-results", "read_committed").await;
    let mut results: Vec<_> =
        results.into_iter().filter(|(_, value)| value.contains("true")).collect();
    let mut shipped = shipped;
    results.sort();
    shipped.sort();
    assert_eq!(shipped, results);

    // Nothing of a transaction that was given up is seen, and nothing of the others is missing.
    let all = content(&mut tools, "orders", "read_uncommitted").await;
    let seen = content(&mut tools, "orders", "read_committed").await;
    assert!(all.len() >= seen.len() + 60 / 4, "{} of {} are seen", seen.len(), all.len());
    let mut by_item = BTreeMap::<String, Vec<Value>>::new();
    for (item, value) in seen.iter().filter(|record| record.0 != "null") {
        by_item.entry(item.clone()).or_default().push(serde_json::from_str(value).unwrap());
    }
    assert_eq!(by_item, expected.orders);
    let logged = content(&mut tools, "order-log", "read_committed").await;
    assert_eq!(logged.len(), expected.answers.len() + 1, "{logged:?}");
}
