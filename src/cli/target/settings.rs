//! What the arguments and the profile say together, each value with its origin; and a profile of what was found.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::Serialize;

use super::Target;
use crate::{
    addr::{Hex, PhysRange, hex_bytes},
    cli::UsageError,
    kernel::KernelMap,
    profile::{self, Profile},
    session::Session,
};

/// A key of a profile as it takes effect.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Setting {
    /// As in `target-profiles/README.md`.
    pub(in crate::cli) key: String,
    pub(in crate::cli) value: String,
    /// `FILE:LINE`, `--option` or `default`.
    pub(in crate::cli) from: String,
}

/// Where values come from.
struct Origins<'a> {
    file: Option<&'a Path>,
    lines: BTreeMap<String, usize>,
    settings: Vec<Setting>,
}

impl Origins<'_> {
    /// A value that may be given by an `option`, by the profile, or by neither.
    fn add(&mut self, key: &str, value: Option<String>, option: Option<&str>) {
        let line =
            self.file.zip(self.lines.get(key)).map(|(file, line)| format!("{}:{line}", file.display()));
        let from = option.map(str::to_owned).or(line).unwrap_or_else(|| "default".to_owned());
        self.settings.push(Setting {
            key: key.to_owned(),
            value: value.unwrap_or_else(|| "-".to_owned()),
            from,
        });
    }
}

fn list(ranges: &[PhysRange]) -> Option<String> {
    let texts: Vec<String> = ranges.iter().map(PhysRange::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(" "))
}

impl Target {
    /// The same target with the profile at `path`; as it is when `None`.
    pub(in crate::cli) fn with_profile(&self, path: Option<&Path>) -> anyhow::Result<Self> {
        let mut target = self.clone();
        match (path, &self.profile) {
            (Some(_), Some(_)) => {
                return Err(UsageError("give one profile: FILE or --profile FILE".to_owned()).into());
            }
            (Some(path), None) => target.profile = Some(path.to_owned()),
            _ => {}
        }
        Ok(target)
    }

    /// Every key with the value that takes effect.
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Vec<Setting>> {
        let profile = self.profile()?;
        let lines = self.profile.as_deref().map(Profile::lines).transpose()?.unwrap_or_default();
        let mut origins = Origins { file: self.profile.as_deref(), lines, settings: Vec::new() };
        origins.add("name", profile.name.clone(), None);
        if self.image.is_empty() && (self.adapter.is_some() || profile.link.is_some()) {
            self.link_settings(&profile, &mut origins)?;
        }
        let (by_ram, ram) =
            if self.ram.is_empty() { (None, &profile.memory.ram) } else { (Some("--ram"), &self.ram) };
        origins.add("memory.ram", list(ram), by_ram);
        origins.add("memory.forbidden", list(&profile.memory.forbidden), None);
        origins.add("memory.write", list(&profile.memory.write), None);
        origins.add("memory.policy", Some(profile.memory.policy.name().to_owned()), None);
        self.kernel_settings(&profile.kernel, &mut origins);
        Ok(origins.settings)
    }

    fn link_settings(&self, profile: &Profile, origins: &mut Origins<'_>) -> anyhow::Result<()> {
        let link = self.link_config(profile.link.as_ref())?;
        let args = &self.link;
        let mut add = |key: &str, value: Option<String>, option: Option<&str>| {
            origins.add(&format!("link.{key}"), value, option);
        };
        add("adapter", Some(link.adapter.to_string()), self.adapter.map(|_| "--adapter"));
        add("local", link.local.map(|ip| ip.to_string()), args.local.map(|_| "--local"));
        add("requester", link.requester.map(|id| id.to_string()), args.requester.map(|_| "--requester"));
        add(
            "driver-host",
            link.driver_host.map(|ip| ip.to_string()),
            args.driver_host.map(|_| "--driver-host"),
        );
        add("tags", Some(link.tags.to_string()), args.tags.map(|_| "--tags"));
        add("mrrs", Some(link.mrrs.to_string()), args.mrrs.map(|_| "--mrrs"));
        add("port-base", Some(Hex(link.port_base.into()).to_string()), args.port_base.map(|_| "--port-base"));
        add("port-mask", Some(Hex(link.port_mask.into()).to_string()), args.port_mask.map(|_| "--port-mask"));
        add(
            "timeout-ms",
            Some(link.timeout.as_millis().to_string()),
            args.timeout_ms.map(|_| "--timeout-ms"),
        );
        add("retries", Some(link.retries.to_string()), args.retries.map(|_| "--retries"));
        Ok(())
    }

    fn kernel_settings(&self, kernel: &profile::Kernel, origins: &mut Origins<'_>) {
        origins.add("kernel.release", kernel.release.clone(), None);
        origins.add("kernel.build-id", kernel.build_id.as_deref().map(hex_bytes), None);
        let (vmlinux, types) = match &self.vmlinux {
            Some(path) => (Some(path), None),
            None => (kernel.vmlinux.as_ref(), kernel.types.as_ref()),
        };
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        origins.add("kernel.vmlinux", vmlinux.map(shown), self.vmlinux.as_ref().map(|_| "--vmlinux"));
        let overruled = kernel.types.as_ref().and(self.vmlinux.as_ref()).map(|_| "--vmlinux");
        origins.add("kernel.types", types.map(shown), overruled);
        origins.add("kernel.phys-base", kernel.phys_base.map(|base| Hex(base).to_string()), None);
        origins.add("kernel.slide", kernel.slide.map(|slide| Hex(slide).to_string()), None);
        for (name, addr) in &kernel.symbols {
            origins.add(&format!("kernel.symbols.{name}"), Some(addr.to_string()), None);
        }
        for (name, layout) in &kernel.structs {
            let key = format!("kernel.structs.{name}");
            if layout.size.is_some() {
                origins.add(&format!("{key}.size"), layout.size.map(|size| size.to_string()), None);
            }
            for (member, place) in &layout.members {
                let size = place.size.map_or_else(String::new, |size| format!(", {size} bytes"));
                origins.add(&format!("{key}.{member}"), Some(format!("{}{size}", place.offset)), None);
            }
        }
    }

    /// A profile of this target as it was found.
    pub(in crate::cli) fn found(&self, session: &Session) -> anyhow::Result<String> {
        let mut text = format!(
            "# Written by nettlp-gdb {} of {}.\n# target-profiles/README.md documents every key.\n",
            env!("CARGO_PKG_VERSION"),
            comment(&self.description()?)
        );
        let profile = self.profile()?;
        match &profile.name {
            Some(name) => writeln!(text, "name = {}\n", quoted(name))?,
            None => text.push_str("# name = \"what people call the host\"\n\n"),
        }
        if self.image.is_empty() {
            self.write_link(&profile, &mut text)?;
        }
        write_memory(&session.kernel.map, &profile.memory, &mut text)?;
        self.write_kernel(session, &profile.kernel, &mut text)?;
        Ok(text)
    }

    fn write_link(&self, profile: &Profile, text: &mut String) -> anyhow::Result<()> {
        let settings = self.only_link(profile)?;
        text.push_str("[link]\n");
        for Setting { key, value, from } in settings {
            let key = key.trim_start_matches("link.");
            let number = value.starts_with("0x") || value.bytes().all(|byte| byte.is_ascii_digit());
            let value = if number { value } else { quoted(&value) };
            match (from.as_str(), value.as_str()) {
                ("default", "\"-\"") => {}
                ("default", _) => writeln!(text, "# {key} = {value}")?,
                _ => writeln!(text, "{key} = {value}")?,
            }
        }
        text.push('\n');
        Ok(())
    }

    fn only_link(&self, profile: &Profile) -> anyhow::Result<Vec<Setting>> {
        let lines = self.profile.as_deref().map(Profile::lines).transpose()?.unwrap_or_default();
        let mut origins = Origins { file: self.profile.as_deref(), lines, settings: Vec::new() };
        self.link_settings(profile, &mut origins)?;
        Ok(origins.settings)
    }

    fn write_kernel(
        &self,
        session: &Session,
        profile: &profile::Kernel,
        text: &mut String,
    ) -> anyhow::Result<()> {
        let map = &session.kernel.map;
        text.push_str("[kernel]\n");
        if let Some(banner) = &map.banner {
            writeln!(text, "# {}", comment(banner.trim_end()))?;
        }
        if let Some(release) = &map.release {
            writeln!(
                text,
                "# Another release or build is refused; after an update of the kernel, write this anew."
            )?;
            writeln!(text, "release = {}", quoted(release))?;
        }
        if let Some(id) = &map.build_id {
            writeln!(text, "build-id = \"{}\"", hex_bytes(id))?;
        }
        match self.vmlinux.as_ref().or(profile.file()) {
            Some(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let key = if session.kernel.symbols.is_some() { "vmlinux" } else { "types" };
                writeln!(text, "{key} = {}", quoted(&path.display().to_string()))?;
            }
            None => text.push_str("# vmlinux = \"vmlinux\"  # the kernel's own file, relative to this one\n"),
        }
        text.push_str("# This boot only, where the kernel has KASLR, and therefore not fixed here:\n");
        writeln!(text, "# phys-base = \"{}\"", Hex(map.phys_base))?;
        if let Some(slide) = map.slide {
            writeln!(text, "# slide = \"{}\"", Hex(slide))?;
        }
        Ok(())
    }
}

fn write_memory(map: &KernelMap, given: &profile::Memory, text: &mut String) -> std::fmt::Result {
    text.push_str("[memory]\n");
    let how = map.evidence.iter().find(|evidence| evidence.what == "ram");
    let how = how.map_or("unknown source", |evidence| evidence.method);
    writeln!(text, "# RAM as the target has it ({how}). No read leaves these ranges.")?;
    if let Some(shortfall) = map.ram_shortfall {
        writeln!(text, "# There may be more: {shortfall}.")?;
    }
    write_ranges("ram", &map.ram, text)?;
    text.push_str("# Ranges of which no byte is ever read or written, whatever is asked for.\n");
    match given.forbidden.as_slice() {
        [] => text.push_str("# forbidden = []\n"),
        forbidden => write_ranges("forbidden", forbidden, text)?,
    }
    text.push_str("# Ranges that may be written where writing is allowed.\n");
    match given.write.as_slice() {
        [] => text.push_str("# write = []\n"),
        write => write_ranges("write", write, text)?,
    }
    text.push('\n');
    Ok(())
}

fn write_ranges(key: &str, ranges: &[PhysRange], text: &mut String) -> std::fmt::Result {
    writeln!(text, "{key} = [")?;
    for range in ranges {
        writeln!(text, "    \"{range}\",")?;
    }
    writeln!(text, "]")
}

/// Text of the target's in a comment: what would end the line does not.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
