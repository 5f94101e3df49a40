//! What the system lets a process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process open as many files and connections as it may: shells and service managers often begin with 1,024, and leave it to
/// the process to ask for more. Warns where that is fewer than `needed`.
pub fn open_files(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    // None: no limit.
    if let Some(granted) = getrlimit(Resource::Nofile).current.filter(|granted| *granted < needed) {
        tracing::warn!(
            granted,
            needed,
            "connections may be refused for want of open files: raise the limit (ulimit -Hn, LimitNOFILE)"
        );
    }
}

/// Keeps this process's memory in small pages. The system clears a huge page (2 MiB) at once when it is first touched, and whoever
/// touched it waits for that: where many connections come, requests would.
#[cfg(target_os = "linux")]
pub fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "memory may come in huge pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_be_had_is_asked_for() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(512), maximum: before.maximum }).unwrap();
        open_files(1);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn huge_pages_are_refused() {
        small_pages();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
