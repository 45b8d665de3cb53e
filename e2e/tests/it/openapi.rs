//! The OpenAPI document against the server that serves it, by schemathesis.
//!
//! Not here: that it names every route and no other (a test of the REST door).

use std::process::Command;

use larder_e2e::{
    client::text,
    oracle,
    server::Server,
    tool::{self, knob, skip},
};
use serde_json::json;

/// What is asked of every answer. Not among them: that data which fit the schema are accepted,
/// because names, cursors and conditions have rules that no schema says; and that wrong credentials
/// are 401, because after a few they are 429 (`identity` and `attacks` have them).
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      negative_data_rejection,missing_required_header,unsupported_method,\
                      use_after_free";

#[test]
fn every_answer_is_as_the_document_says_whatever_is_asked() {
    let tools = match (tool::which("python3"), tool::installed("schemathesis")) {
        (Some(python), Ok(packages)) => (python, packages),
        (None, _) => return skip("schemathesis", "python3 is not installed"),
        (_, Err(why)) => return skip("schemathesis", why),
    };
    let server = Server::start();
    let root = server.client();
    let key = json!({"name": "schemathesis"});
    let key = root.json("POST", "/v1/users/me/keys", &key).expect(201).json();
    let output = Command::new(tools.0)
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"])
        .arg(format!("http://{}/v1/openapi.json", server.addr()))
        .args(["--header", &format!("Authorization: Bearer {}", text(&key, "key"))])
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"])
        // Streams; and tus, which has clients of its own.
        .args(["--exclude-path-regex", "/admin/(dump|load)|/changes|/v1/uploads"])
        // Whoever deletes the root user or its key asks in vain from then on.
        .args(["--exclude-method", "DELETE", "--exclude-method", "OPTIONS"])
        .args(["--max-examples", &knob("LARDER_E2E_EXAMPLES", 8).to_string()])
        .args(["--seed", "1", "--request-timeout", "20", "--no-color"])
        .current_dir(server.scratch())
        .env("PYTHONPATH", tools.1)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{told}");
    assert!(said.contains("Tested"), "{said}");
    oracle::clean(&root);
}
