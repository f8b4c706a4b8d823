//! The two lists that name every service: edited as text, so that comments and order stay.

use anyhow::{Context, Result, bail};

use super::name::Name;

/// `Cargo.toml` with one more member, in the order of their names.
pub fn with_member(manifest: &str, member: &str) -> Result<String> {
    let name = |line: &str| Some(line.trim().strip_prefix('"')?.strip_suffix("\",")?.to_owned());
    let lines: Vec<&str> = manifest.split_inclusive('\n').collect();
    let first = 1 + lines
        .iter()
        .position(|line| line.trim_end() == "members = [")
        .context("failed to find the list of members\n  fix: begin it with a line `members = [`")?;
    let length = lines[first..]
        .iter()
        .position(|line| line.trim_end() == "]")
        .context("failed to find the end of the list of members\n  fix: end it with a line `]`")?;
    let members = &lines[first..first + length];
    if members.iter().any(|line| name(line).as_deref() == Some(member)) {
        bail!("{member} is a member already\n  fix: choose another name, or remove that line");
    }
    let before = members
        .iter()
        .take_while(|line| name(line).is_none_or(|other| other.as_str() < member))
        .count();
    Ok(with_line(&lines, first + before, &format!("    \"{member}\",\n")))
}

/// `kustomization.yaml` with one more resource, after those of the services.
pub fn with_resource(
    kustomization: &str,
    service: &Name,
    is_service: impl Fn(&str) -> bool,
) -> Result<String> {
    let resource = |line: &str| Some(line.trim().strip_prefix("- ")?.strip_suffix(".yaml")?.to_owned());
    let lines: Vec<&str> = kustomization.split_inclusive('\n').collect();
    let resources: Vec<(usize, String)> = lines
        .iter()
        .enumerate()
        .filter_map(|(at, line)| Some((at, resource(line)?)))
        .collect();
    if resources.iter().any(|(_, name)| name == service.as_str()) {
        bail!("{service}.yaml is a resource already\n  fix: choose another name, or remove that line");
    }
    let last_of_services = resources.iter().rfind(|(_, name)| is_service(name));
    let (last, _) = last_of_services
        .or(resources.last())
        .context("failed to find the resources\n  fix: list them as lines `- NAME.yaml`")?;
    Ok(with_line(&lines, last + 1, &format!("- {service}.yaml\n")))
}

fn with_line(lines: &[&str], at: usize, line: &str) -> String {
    let (before, after) = lines.split_at(at);
    let end = if before.last().is_none_or(|line| line.ends_with('\n')) {
        ""
    } else {
        "\n"
    };
    format!("{}{end}{line}{}", before.concat(), after.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[workspace]\nmembers = [\n    \"cli\",\n    # One.\n    \"services/order\",\n    \"services/user\",\n]\n\n[x]\ny = [\n]\n";

    #[test]
    fn a_member_gets_the_place_of_its_name() {
        for (member, after) in [
            ("services/payment", "    \"services/order\",\n"),
            ("services/a", "    # One.\n"),
            ("services/z", "    \"services/user\",\n"),
        ] {
            let line = format!("    \"{member}\",\n");
            let new = with_member(MANIFEST, member).unwrap();
            assert!(new.contains(&format!("{after}{line}")), "{new}");
            assert_eq!(new.replacen(&line, "", 1), MANIFEST);
        }
    }

    #[test]
    fn a_resource_comes_after_those_of_the_services_that_are_there() {
        let text = "# The shop.\nresources:\n- namespace.yaml\n- user.yaml\n- order.yaml\n- gateway.yaml";
        let is_service = |name: &str| ["user", "order"].contains(&name);
        let name = Name::parse("mail").unwrap();
        let new = with_resource(text, &name, is_service).unwrap();
        assert!(
            new.ends_with("- order.yaml\n- mail.yaml\n- gateway.yaml"),
            "{new}"
        );
        let new = with_resource(text, &name, |_| false).unwrap();
        assert!(new.ends_with("- gateway.yaml\n- mail.yaml\n"), "{new}");
    }

    #[test]
    fn a_list_that_names_it_already_or_is_none_is_an_error_with_the_fix() {
        let name = Name::parse("user").unwrap();
        let errors = [
            with_member(MANIFEST, "services/user"),
            with_member("members = []\n", "services/user"),
            with_member("members = [\n", "services/user"),
            with_resource("- user.yaml\n", &name, |_| true),
            with_resource("resources: []\n", &name, |_| true),
        ];
        for error in errors {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("\n  fix: "), "{error}");
        }
    }
}
