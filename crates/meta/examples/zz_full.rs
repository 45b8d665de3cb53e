//! Throw-away.
#![allow(warnings)]
use larder_meta::{*, engine::embedded::*};
use larder_base::env::Env;
use std::path::Path;
fn main() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    rt.block_on(async {
        let p = Path::new("/tmp/full/meta");
        let store = EmbeddedStore::open(p, EmbeddedOptions::default(), &Env::system()).unwrap();
        let mut keys: Vec<String> = vec![];
        for round in 0..4 {
            let mut ballast = 0;
            let err = loop {
                let k = format!("k{round}-{}", keys.len());
                let mut spec = TxnSpec::default();
                spec.put.push((k.clone().into(), vec![7u8; 30_000].into()));
                spec.put.push((format!("m{k}").into(), vec![7u8; 300].into()));
                match store.commit(spec).await { Ok(_) => keys.push(k), Err(e) => break e }
            };
            println!("round {round}: {} kept, {err:?}, health {:?}", keys.len(), store.health());
            // fill the rest of the disk
            let b = format!("/tmp/full/ballast");
            let mut f = std::fs::File::create(&b).unwrap();
            use std::io::Write;
            while f.write_all(&[1u8; 4096]).is_ok() {}
            // delete everything with small bookkeeping
            let n = keys.len();
            let keep = keys.split_off(n / 4);
            let mut failed = 0;
            for k in &keys {
                let mut spec = TxnSpec::default();
                spec.delete.push(k.clone().into()); spec.delete.push(format!("m{k}").into());
                if round == 1 { for j in 0..20 { spec.put.push((format!("trash{k}-{j}").into(), vec![1u8; 1000].into())); } }
                if let Err(e) = store.commit(spec).await { failed += 1; if failed == 1 { println!("delete failed {e:?}"); } }
            }
            println!("deleted {} failed {failed} health {:?} {:?}", keys.len(), store.health(), store.statistics().into_iter().filter(|s| s.0.starts_with("log") || s.0.starts_with("overlay")|| s.0.starts_with("tables")).collect::<Vec<_>>());
            println!("compact {:?}", store.compact().await);
            println!("compact {:?}", store.compact().await);
            keys = keep;
            let v = store.snapshot().await.unwrap();
            for k in &keys { assert_eq!(v.get(k.as_bytes()).await.unwrap().unwrap().value.len(), 30_000); }
            drop(v);
            println!("health {:?}", store.health());
            std::fs::remove_file(&b).unwrap();
            let t = std::time::Instant::now();
            while store.health() != Health::Ready && t.elapsed().as_secs() < 5 { std::thread::sleep(std::time::Duration::from_millis(50)); }
            println!("after ballast removed: {:?} after {:?}", store.health(), t.elapsed());
        }
        store.close().await.unwrap(); drop(store);
        let store = EmbeddedStore::open(p, EmbeddedOptions::default(), &Env::system()).unwrap();
        let v = store.snapshot().await.unwrap();
        for k in &keys { assert_eq!(v.get(k.as_bytes()).await.unwrap().unwrap().value.len(), 30_000); }
        println!("reopened, {} keys ok", keys.len());
    });
}
