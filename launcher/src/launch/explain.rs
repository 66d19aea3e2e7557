//! What a start would get and which rule says so, and what a running sandbox got
//! and how it stands. Reads the ledger and looks at the host; starts, reserves and
//! changes nothing, and tells no secret: of the environment it names the names.

use std::collections::BTreeMap;

use adrastea_proto::v1;
use adrastea_runtimes::{
    Runtime,
    plan::{IdMap, Plan},
};
use serde_json::json;

use super::{
    Launcher,
    failure::{Failure, chain},
    sandbox::Sandbox,
};
use crate::{
    network::nft,
    policy::{self, Decision, Refusal},
    quantity::display_bytes,
    store::Facts,
};

/// A valid id that no sandbox ever has: the real ones are hexadecimal.
const EXAMPLE_ID: &str = "sexample0000";

fn value(
    name: impl Into<String>,
    value: impl Into<String>,
    rule: impl Into<String>,
) -> v1::ExplainedValue {
    v1::ExplainedValue { name: name.into(), value: value.into(), rule: rule.into() }
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn map(map: &IdMap) -> serde_json::Value {
    let lines = map.mappings().iter();
    lines
        .map(|line| json!({"inside": line.inside, "outside": line.outside, "length": line.length}))
        .collect()
}

fn plan_text(plan: &Plan) -> String {
    pretty(&json!({
        "id": plan.id.as_str(),
        "hostname": plan.hostname,
        "rootfs": plan.rootfs,
        "init": plan.init,
        "user_namespace": plan.user_namespace,
        "network_namespace": plan.network_namespace,
        "uid_map": map(&plan.uid_map),
        "gid_map": map(&plan.gid_map),
        "user": {"uid": plan.user.uid, "gid": plan.user.gid, "home": plan.user.home},
        "cgroup": plan.cgroup,
        "limits": {
            "memory_bytes": plan.limits.memory_bytes,
            "cpu_millis": plan.limits.cpu_millis,
            "processes": plan.limits.processes,
            "open_files": plan.limits.open_files,
            "tmp_bytes": plan.limits.tmp_bytes,
            "shm_bytes": plan.limits.shm_bytes,
        },
    }))
}

fn firewall(sandbox: &Sandbox) -> String {
    nft::elements::describe(sandbox.id(), sandbox.address, &sandbox.record.facts.egress)
}

/// Every value of a decision, and the rule behind it.
fn values(decision: &Decision, asked: &v1::StartRequest) -> Vec<v1::ExplainedValue> {
    let profile = format!("profiles.{}", decision.profile);
    let rule = |key: &str| format!("{profile}.{key}");
    let or_request = |is_asked: bool, key: &str| {
        if is_asked { "request".to_owned() } else { rule(key) }
    };
    let limits = asked.limits.unwrap_or_default();
    let mut values = vec![
        value(
            "profile",
            &decision.profile,
            if asked.profile.is_empty() {
                "profiles.*.users (the first this user may use)"
            } else {
                "request"
            },
        ),
        value("runtime", &decision.runtime, or_request(!asked.runtime.is_empty(), "runtimes")),
        value("image", &decision.image.name, or_request(!asked.image.is_empty(), "image")),
        value(
            "image reference",
            &decision.image.reference,
            format!("images.{}.reference", decision.image.name),
        ),
        value(
            "image digest",
            &decision.image.digest,
            format!("images.{}.digest", decision.image.name),
        ),
        value("egress", &decision.egress, rule("egress")),
        value(
            "memory",
            display_bytes(decision.memory_bytes),
            or_request(limits.memory_bytes.is_some(), "limits.memory"),
        ),
        value(
            "cpu",
            format!("{}.{:03}", decision.cpu_millis / 1000, decision.cpu_millis % 1000),
            or_request(limits.cpu_millis.is_some(), "limits.cpu"),
        ),
        value("processes", decision.processes.to_string(), rule("limits.processes")),
        value("open files", decision.open_files.to_string(), rule("limits.open_files")),
        value("/tmp", display_bytes(decision.tmp_bytes), rule("limits.tmp")),
        value("/dev/shm", display_bytes(decision.shm_bytes), rule("limits.shm")),
        value("log", display_bytes(decision.log_bytes), rule("limits.log")),
        value(
            "servers of this user",
            decision.servers_per_user.to_string(),
            rule("limits.servers_per_user"),
        ),
        value(
            "user inside",
            format!("{}:{} {}", decision.user.uid, decision.user.gid, decision.user.name),
            rule("user"),
        ),
        value("home inside", decision.user.home.display().to_string(), rule("user")),
        value(
            "user configuration",
            if decision.ignore_user_config { "ignored" } else { "own" },
            or_request(asked.disable_user_config, "user_config"),
        ),
        value("command", decision.command.first().cloned().unwrap_or_default(), rule("command")),
    ];
    values.extend(decision.environment.keys().map(|name| {
        let asks =
            asked.environment.contains_key(name) || asked.secret_environment.contains_key(name);
        value(
            format!("environment {name}"),
            "",
            if asks { "request" } else { "profile or launcher" },
        )
    }));
    values
}

impl Launcher {
    /// What this start would get now.
    pub async fn explain(
        &self,
        asked: &v1::StartRequest,
    ) -> Result<Result<v1::ExplainResponse, Refusal>, Failure> {
        let mut asked = asked.clone();
        if asked.request_id.is_empty() {
            asked.request_id = "explain".into();
        }
        let decision = match policy::decide(&self.config(), &asked) {
            Ok(decision) => decision,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut values = values(&decision, &asked);
        let config = self.config();
        let ids = &config.identity;
        let known = self.store.identity_of(&decision.key.owner())?;
        values.push(match known {
            Some(id) => value("disk id", id.to_string(), "ledger"),
            None => value(
                "disk id",
                "the next free one",
                "identity.first_disk_id to identity.last_disk_id",
            ),
        });
        values.push(value(
            "run ids",
            "65536, leased at the start",
            "identity.first_run_id to identity.last_run_id",
        ));
        values.push(value("address", "leased at the start", "network.subnet"));
        let driver = adrastea_runtimes::by_name(&decision.runtime_kind);
        values.extend(driver.into_iter().flat_map(<dyn Runtime>::limitations).map(|limitation| {
            let rule = format!("runtime {}: {}", decision.runtime, limitation.why);
            value("what it cannot do", limitation.what, rule)
        }));

        let id = known.unwrap_or(ids.first_disk_id);
        let example = EXAMPLE_ID.parse().map_err(|error| {
            Failure::caused_by(
                v1::FailureReason::Internal,
                &error,
                "this is a defect of the launcher: report it",
            )
        })?;
        let record = super::sketch(example, &decision, id, self.pools.first_run_id);
        let address = (self.address)(&config, self.pools.first_address);
        let sandbox = Sandbox::new(record, address, &self.layout);
        let mut obstacles = Vec::new();
        let spec = self.spec_text(&sandbox, &mut obstacles);
        match self.engine.image(&decision.image.reference).await {
            Ok(image) if image.digest != decision.image.digest => obstacles
                .push(format!("image `{}` is {} here", decision.image.reference, image.digest)),
            Ok(_) => {}
            Err(error) => obstacles.push(chain(&error)),
        }
        if let Err(refused) = self.may_begin() {
            obstacles.push(refused.to_string());
        }
        if let Err(refused) = self.may_begin_this(&decision) {
            obstacles.push(refused.to_string());
        }
        Ok(Ok(v1::ExplainResponse {
            values,
            plan: plan_text(&sandbox.plan()),
            runtime_spec: spec,
            firewall: firewall(&sandbox),
            obstacles,
        }))
    }

    fn spec_text(&self, sandbox: &Sandbox, obstacles: &mut Vec<String>) -> String {
        let name = &sandbox.record.facts.runtime;
        if let Err(failure) = self.runtime(name) {
            obstacles.push(failure.message);
        }
        let built = sandbox
            .runtime()
            .map(|runtime| adrastea_runtimes::build_spec(runtime, &sandbox.plan()));
        match built {
            Some(Ok(spec)) => serde_json::to_string_pretty(&spec).unwrap_or_default(),
            Some(Err(error)) => {
                obstacles.push(chain(&error));
                String::new()
            }
            None => String::new(),
        }
    }

    /// What a sandbox of this node got, and how its walls stand now.
    pub async fn inspect(&self, wanted: impl Fn(&Sandbox) -> bool) -> Option<v1::InspectResponse> {
        let entry = self.list(None).into_iter().find(|entry| wanted(&entry.sandbox))?;
        let (sandbox, mut ignored) = (&entry.sandbox, Vec::new());
        let mut answer = v1::InspectResponse {
            sandbox: Some(entry.describe_with_steps()),
            values: recorded(&sandbox.record.facts),
            ..v1::InspectResponse::default()
        };
        // Once its leases are given back there are no numbers to build anything from.
        if sandbox.record.holds_leases() {
            answer.plan = plan_text(&sandbox.plan());
            answer.runtime_spec = self.spec_text(sandbox, &mut ignored);
            answer.firewall = firewall(sandbox);
        }
        if !entry.is_gone() && entry.pid() != 0 {
            answer.broken_walls = self.ground.look(sandbox, entry.pid()).await;
            answer.counters = self.ground.counters(sandbox).into_iter().collect();
        }
        Some(answer)
    }
}

/// What was decided at the start; the configuration may have changed since.
fn recorded(facts: &Facts) -> Vec<v1::ExplainedValue> {
    let rule = "decided at its start";
    let numbers: BTreeMap<&str, String> = BTreeMap::from([
        ("profile", facts.profile.clone()),
        ("runtime", facts.runtime.clone()),
        ("runtime's driver", facts.driver_name().to_owned()),
        ("image reference", facts.image_reference.clone()),
        ("image digest", facts.image_digest.clone()),
        ("egress", facts.egress.clone()),
        ("user inside", format!("{}:{}", facts.uid_inside, facts.gid_inside)),
        ("home inside", facts.home_inside.display().to_string()),
        ("disk id", facts.disk_uid.to_string()),
        ("memory", display_bytes(facts.memory_bytes)),
        ("cpu", format!("{}.{:03}", facts.cpu_millis / 1000, facts.cpu_millis % 1000)),
        ("processes", facts.processes.to_string()),
        ("open files", facts.open_files.to_string()),
        ("/tmp", display_bytes(facts.tmp_bytes)),
        ("/dev/shm", display_bytes(facts.shm_bytes)),
        ("log", display_bytes(facts.log_bytes)),
        ("user configuration", if facts.ignore_user_config { "ignored" } else { "own" }.into()),
    ]);
    numbers.into_iter().map(|(name, text)| value(name, text, rule)).collect()
}
