use std::time::Instant;
use crate::playground::{network, on_a_host, sandbox};
#[test]
fn timing() {
    on_a_host(async || {
        let network = network().await;
        let t = Instant::now(); network.install(&[]).await.unwrap(); println!("install {:?}", t.elapsed());
        let mut v: [Vec<u128>; 6] = Default::default();
        for i in 0..60 {
            let t = Instant::now(); let s = sandbox(&format!("s{i}x"), i, "web"); v[0].push(t.elapsed().as_micros());
            let t = Instant::now(); network.attach(&s).await.unwrap(); v[1].push(t.elapsed().as_micros());
            let t = Instant::now(); network.verify(&s, adrastea::network::Gate::Closed).await.unwrap(); v[2].push(t.elapsed().as_micros());
            let t = Instant::now(); network.open_egress(&s).unwrap(); v[3].push(t.elapsed().as_micros());
            if i % 2 == 0 { let t = Instant::now(); network.detach(&s.id).await.unwrap(); v[4].push(t.elapsed().as_micros()); }
            let t = Instant::now(); network.list().await.unwrap(); v[5].push(t.elapsed().as_micros());
        }
        for (n, mut x) in ["create_pinned", "attach", "verify", "open_egress", "detach", "list"].iter().zip(v) { x.sort(); println!("{n}: p50 {} us, max {} us", x[x.len() / 2], x[x.len() - 1]); }
    });
}
