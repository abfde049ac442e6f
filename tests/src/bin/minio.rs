//! A MinIO server with an empty bucket, to try things with: prints the bucket's URL and runs until
//! its standard input ends.

use levee_tests::minio::Minio;

fn main() {
    let minio = Minio::start();
    println!("{}", minio.url("bench"));
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    drop(minio);
}
