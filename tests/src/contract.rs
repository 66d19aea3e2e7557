//! The wire contract as text: one line per message, field, value and method, so
//! that every change of it is seen.

use anyhow::Context as _;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// The contract of this build.
pub fn text() -> anyhow::Result<String> {
    let set = FileDescriptorSet::decode(adrastea_proto::DESCRIPTOR)
        .context("failed to read the descriptor")?;
    let mut lines = Vec::new();
    for file in &set.file {
        lines.push(format!("package {}", file.package()));
        file.service.iter().for_each(|one| service(one, &mut lines));
        file.message_type.iter().for_each(|one| message(one, "", &mut lines));
        file.enum_type.iter().for_each(|one| enumeration(one, "", &mut lines));
    }
    Ok(lines.join("\n") + "\n")
}

fn service(service: &ServiceDescriptorProto, lines: &mut Vec<String>) {
    lines.push(format!("\nservice {}", service.name()));
    for method in &service.method {
        let stream = |yes: bool| if yes { "stream " } else { "" };
        lines.push(format!(
            "  {}({}{}) -> {}{}",
            method.name(),
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type()
        ));
    }
}

fn message(message: &DescriptorProto, outer: &str, lines: &mut Vec<String>) {
    let name = format!("{outer}{}", message.name());
    lines.push(format!("\nmessage {name}"));
    for field in &message.field {
        lines.push(format!("  {} = {}: {}", field.number(), field.name(), kind(field, message)));
    }
    for range in &message.reserved_range {
        lines.push(format!("  reserved {} to {}", range.start(), range.end() - 1));
    }
    for inner in &message.nested_type {
        self::message(inner, &format!("{name}."), lines);
    }
    for inner in &message.enum_type {
        enumeration(inner, &format!("{name}."), lines);
    }
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let base = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let group =
        field.oneof_index.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    if field.proto3_optional() {
        format!("optional {base}")
    } else if let Some(group) = group {
        format!("{base} (one of {})", group.name())
    } else if field.label() == Label::Repeated {
        format!("repeated {base}")
    } else {
        base
    }
}

fn enumeration(enumeration: &EnumDescriptorProto, outer: &str, lines: &mut Vec<String>) {
    lines.push(format!("\nenum {outer}{}", enumeration.name()));
    for value in &enumeration.value {
        lines.push(format!("  {} = {}", value.number(), value.name()));
    }
}
