//! The whole spec, so that a change of any wall shows in a diff.

#![allow(clippy::unwrap_used)]

use crate::{all, build_spec, plan::tests::example, spec::SpecError};

/// One file per runtime; written anew by `INSTA_UPDATE=always cargo test`.
#[test]
fn the_whole_spec_of_every_runtime() {
    for runtime in all() {
        let spec = build_spec(*runtime, &example()).unwrap();
        let text = serde_json::to_string_pretty(&serde_json::to_value(&spec).unwrap()).unwrap();
        insta::assert_snapshot!(runtime.name(), text);
    }
}

#[test]
fn an_invalid_plan_gives_no_spec() {
    let mut plan = example();
    plan.user.uid = 0;
    let error = build_spec(&crate::runc::Runc, &plan).unwrap_err();
    assert!(matches!(error, SpecError::InvalidPlan { .. }));
    assert_eq!(error.to_string(), "the plan of sandbox `sabcdefghij0` makes no sense");
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = all().iter().map(|runtime| runtime.name()).collect();
    names.dedup();
    assert_eq!(names.len(), all().len());
}
