//! A resuming client in eventsource-stream: prints `{"open":true}`, `{"id":…}` or `{"gap":…}` a line.

use std::{env, time::Duration};

use eventsource_stream::{Event, Eventsource};
use futures_util::StreamExt;
use reqwest::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = env::args().nth(1).expect("the first argument is the URL");
    let client = Client::builder()
        .no_proxy()
        .build()
        .expect("a client without TLS");
    let mut last = String::new();
    loop {
        // An error is a cut: what was whole has been told.
        let _ = listen(&client, &url, &mut last).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn listen(client: &Client, url: &str, last: &mut String) -> reqwest::Result<()> {
    let request = client.get(url).header("last-event-id", last.as_str());
    let response = request.send().await?.error_for_status()?;
    println!("{{\"open\":true}}");
    let mut events = response.bytes_stream().eventsource();
    while let Some(Ok(event)) = events.next().await {
        tell(&event);
        if !event.id.is_empty() {
            *last = event.id;
        }
    }
    Ok(())
}

fn tell(event: &Event) {
    if event.event == "gap" {
        println!("{{\"gap\":{}}}", event.data);
    } else if !event.data.is_empty() {
        println!("{{\"id\":\"{}\"}}", event.id);
    }
}
