# An index of one-liners; the logic is in xtask.

default:
    @just --list

# Brings up the cluster, the operator and the shop.
up *ARGS:
    cargo xtask up {{ARGS}}

# Stops everything, keeps data.
down:
    cargo xtask down

# What runs.
status:
    cargo xtask status

# Every check, end-to-end tests included.
test *ARGS:
    cargo xtask test {{ARGS}}

# Writes the golden files anew.
golden:
    TRELLIS_WRITE=1 cargo test -p trellis-operator-desired

# Writes the generated files anew.
generate:
    cargo xtask crds
    cargo xtask manifests
    TRELLIS_WRITE=1 cargo test -p trellis-config-stream

# Licences, advisories, duplicate versions.
deny:
    cargo deny check
