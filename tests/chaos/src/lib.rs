//! The whole system under faults. For now the tests are process tests: real binaries on this machine, killed and lied to
//! (`tests/processes/`), and the rules of the house, checked on the source (`tests/house/`).
