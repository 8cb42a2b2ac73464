# Packages of Debian, fetched and unpacked beside the system: no root, nothing installed. For scripts
# that source it; they name themselves in `script` for the sake of messages.

fail() {
    echo "$script: $1" >&2
    exit 1
}

# Fails for a program that isn't there.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "needs $tool"
    done
}

# Fetches lists of packages into a folder, and sets `own` to the options of apt that use them. They
# are those of the system's sources; with a suite named, those of that suite of Debian, in which
# nothing counts as installed: apt then resolves all that a package needs.
own_lists() {
    local folder=$1 suite=${2-}
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    own=(-o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o APT::Sandbox::User=root)
    if [[ $suite ]]; then
        local keys=/usr/share/keyrings/debian-archive-keyring.gpg
        [[ -e $keys ]] || fail "needs $keys, of the package debian-archive-keyring"
        local mirror=${DEBIAN_MIRROR-http://deb.debian.org/debian}
        echo "deb [signed-by=$keys arch=amd64] $mirror $suite main" >"$folder/sources.list"
        : >"$folder/status"
        own+=(-o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
            -o Dir::Etc::Parts=/dev/null -o "Dir::State::Status=$folder/status"
            -o "Dir::State=$folder" -o "Dir::Log=$folder" -o APT::Architecture=amd64
            -o APT::Architectures=amd64 -o Debug::NoLocking=true -o Acquire::Languages=none)
    fi
    apt-get "${own[@]}" --quiet=2 update >&2 || fail "can't get the lists of ${suite:-the distribution}"
}

# Fetches packages and all that they need into the folder of `own_lists`; those there are kept.
fetch_closure() {
    local folder=$1
    shift
    apt-get "${own[@]}" --quiet=2 --yes --no-install-recommends --download-only \
        install "$@" >"$folder/apt.log" 2>&1 || {
        tail -n 3 "$folder/apt.log" >&2
        fail "$*: no such packages, or they can't be fetched"
    }
}

# Unpacks packages into a folder.
unpack() {
    local root=$1 package
    shift
    for package in "$@"; do
        dpkg-deb --extract "$package" "$root"
    done
}
