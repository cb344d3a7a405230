//! Banners of published kernels, and of nobody's.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(banner: &str, expected: &str) {
    let said = distribution(banner).map_or("unknown".to_owned(), |found| {
        format!("{} by {} {:?}, {:?}", found.name, found.part, found.mark, found.confidence)
    });
    assert_eq!(said, expected, "{banner}");
}

/// A banner of a kernel that `gcc`, of no distribution, built.
fn plain(release: &str, builder: &str, version: &str) -> String {
    format!("Linux version {release} ({builder}) (gcc (GCC) 13.2.1, GNU ld (GNU Binutils) 2.41) #{version}")
}

#[test]
fn debian_and_what_derives_from_it() {
    let gcc = "(gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40)";
    let ubuntu = "(gcc (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0, GNU ld (GNU Binutils for Ubuntu) 2.38)";
    for (head, compiler, version, expected) in [
        (
            "6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org)",
            gcc,
            "1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
            "Debian by builder \"debian-kernel@lists.debian.org\", Found",
        ),
        (
            "6.1.0-56-amd64 (somebody@host)",
            gcc,
            "1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
            "Debian by version \"Debian\", Found",
        ),
        ("6.1.0-own (me@host)", gcc, "1 SMP PREEMPT", "Debian by compiler \"(Debian\", Guessed"),
        (
            "6.5.0-kali3-amd64 (devel@kali.org)",
            gcc,
            "1 SMP Debian 6.5.6-1kali1 (2023-10-09)",
            "Kali Linux by release \"-kali3\", Found",
        ),
        (
            "6.5.11-4-pve (somebody@host)",
            gcc,
            "1 SMP PREEMPT_DYNAMIC PMX 6.5.11-4 (2023-11-20T10:19Z)",
            "Proxmox VE by release \"-pve\", Found",
        ),
        (
            "5.15.0-91-generic (buildd@lcy02-amd64-045)",
            ubuntu,
            "101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023",
            "Ubuntu by builder \"buildd@lcy\", Found",
        ),
        (
            "6.5.0-14-generic (buildd@bos03-amd64-001)",
            ubuntu,
            "14~22.04.1-Ubuntu SMP PREEMPT_DYNAMIC",
            "Ubuntu by version \"-Ubuntu\", Found",
        ),
        ("6.5.0-own (me@host)", ubuntu, "1 SMP", "Ubuntu by compiler \"(Ubuntu\", Guessed"),
    ] {
        check(&format!("Linux version {head} {compiler} #{version}"), expected);
    }
}

#[test]
fn red_hat_and_its_relatives() {
    for (release, host, expected) in [
        ("6.5.6-300.fc39.x86_64", "d2ac6d1a9f6b4d1f8f0d", "Fedora 39 by release \".fc39\", Found"),
        (
            "6.0.7-301.fc37.x86_64",
            "bkernel01.iad2.fedoraproject.org",
            "Fedora by builder \"fedoraproject.org\", Found",
        ),
        (
            "5.14.0-362.8.1.el9_3.x86_64",
            "x86-64-02.build.eng.rdu2.redhat.com",
            "Red Hat Enterprise Linux by builder \"redhat.com\", Found",
        ),
        (
            "5.14.0-391.el9.x86_64",
            "x86-05.stream.rdu2.redhat.com",
            "CentOS Stream by builder \".stream.rdu2.redhat.com\", Found",
        ),
        ("3.10.0-1160.el7.x86_64", "kbuilder.bsys.centos.org", "CentOS by builder \"centos.org\", Found"),
        (
            "5.14.0-362.el9.x86_64",
            "iad1-prod-build001.bld.equ.rockylinux.org",
            "Rocky Linux by builder \"rockylinux.org\", Found",
        ),
        (
            "5.14.0-362.el9.x86_64",
            "x64-builder02.almalinux.org",
            "AlmaLinux by builder \"almalinux.org\", Found",
        ),
        (
            "5.14.0-362.el9.x86_64",
            "host-100",
            "Red Hat Enterprise Linux or a rebuild of it, version 9 by release \".el9\", Guessed",
        ),
        (
            "5.15.0-101.103.2.1.el9uek.x86_64",
            "host-100-100-224-6",
            "Oracle Linux (Unbreakable Enterprise Kernel) by release \"uek\", Found",
        ),
        (
            "6.1.61-85.141.amzn2023.x86_64",
            "ip-10-0-40-36",
            "Amazon Linux 2023 by release \".amzn2023\", Found",
        ),
        ("6.1.0-own", "host", "Red Hat, Fedora or a relative of theirs by compiler \"(Red Hat\", Guessed"),
    ] {
        let banner = format!(
            "Linux version {release} (mockbuild@{host}) (gcc (GCC) 11.4.1 20230605 (Red Hat 11.4.1-2), GNU ld \
             version 2.35) #1 SMP PREEMPT_DYNAMIC"
        );
        check(&banner, expected);
    }
}

#[test]
fn others() {
    for (release, builder, version, expected) in [
        ("6.6.3-arch1-1", "linux@archlinux", "1 SMP", "Arch Linux by builder \"linux@archlinux\", Found"),
        ("6.6.3-arch1-1", "me@host", "1 SMP", "Arch Linux by release \"-arch1\", Found"),
        (
            "5.14.21-150500.55-default",
            "geeko@buildhost",
            "1 SMP",
            "SUSE by builder \"geeko@buildhost\", Found",
        ),
        (
            "6.1.64-0-lts",
            "buildozer@build-3-18",
            "1-Alpine SMP",
            "Alpine Linux by version \"-Alpine\", Found",
        ),
        ("6.1.64", "nixbld@localhost", "1-NixOS SMP", "NixOS by version \"-NixOS\", Found"),
        (
            "5.15.133.1-microsoft-standard-WSL2",
            "root@1c602f52c2e4",
            "1 SMP",
            "Microsoft WSL by release \"-microsoft-standard\", Found",
        ),
    ] {
        check(&plain(release, builder, version), expected);
    }
}

#[test]
fn nothing_without_a_mark() {
    for (release, builder) in [
        ("6.1.0", "me@host"),
        ("6.1.0.fcustom", "me@host"),
        ("6.1.0-architect", "me@host"),
        ("6.1.0-pvenv", "me@redhat.community"),
        ("6.1.0.elephant", "debian@host"),
    ] {
        check(&plain(release, builder, "1 SMP Tue"), "unknown");
    }
    for banner in ["", "Linux version ", "Linux version 6.1 (a@b)", "Debian (Debian 12) #1 Debian "] {
        check(banner, "unknown");
    }
}

proptest! {
    #[test]
    fn any_text(release: String, builder: String, version: String) {
        let _ = distribution(&plain(&release, &builder, &version));
        let _ = distribution(&version);
    }
}
