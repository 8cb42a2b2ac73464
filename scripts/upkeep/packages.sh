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
# are those of the system's sources; with a suite named, those of that suite of Debian for an
# architecture (amd64), in which nothing counts as installed: apt then resolves all that a package
# needs.
own_lists() {
    local folder=$1 suite=${2-} arch=${3-amd64}
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    own=(-o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o APT::Sandbox::User=root)
    if [[ $suite ]]; then
        local keys=/usr/share/keyrings/debian-archive-keyring.gpg
        [[ -e $keys ]] || fail "needs $keys, of the package debian-archive-keyring"
        local mirror=${DEBIAN_MIRROR-http://deb.debian.org/debian}
        echo "deb [signed-by=$keys arch=$arch] $mirror $suite main" >"$folder/sources.list"
        : >"$folder/status"
        own+=(-o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
            -o Dir::Etc::Parts=/dev/null -o "Dir::State::Status=$folder/status"
            -o "Dir::State=$folder" -o "Dir::Log=$folder" -o "APT::Architecture=$arch"
            -o "APT::Architectures=$arch" -o Debug::NoLocking=true -o Acquire::Languages=none)
    fi
    local of=${suite:-the distribution}
    [[ -z $suite || $arch == amd64 ]] || of+=" for $arch"
    apt-get "${own[@]}" --quiet=2 update >"$folder/apt.log" 2>&1 || {
        failed_by_apt "$folder/apt.log" "can't get the lists of $of"
    }
    # Of a suite that has nothing for an architecture, apt only warns.
    if grep --quiet "doesn't support architecture" "$folder/apt.log"; then
        fail "$of: Debian has no such packages"
    fi
}

# Fails, with apt's first error behind the message if it gave one.
failed_by_apt() {
    local error
    error=$(sed -n 's/^E: //p' "$1" | head -n 1)
    fail "$2${error:+: $error}"
}

# Fetches packages and all that they need into the folder of `own_lists`; those there are kept.
fetch_closure() {
    local folder=$1
    shift
    apt-get "${own[@]}" --quiet=2 --yes --no-install-recommends --download-only \
        install "$@" >"$folder/apt.log" 2>&1 ||
        failed_by_apt "$folder/apt.log" "$*: no such packages, or they can't be fetched"
}

# Unpacks packages into a folder, without what only people read. Of an error the first line is shown:
# where the disk is full, tar writes one for each file.
unpack() {
    local root=$1 package errors left
    shift
    errors=$(mktemp)
    mkdir -p "$root"
    for package in "$@"; do
        dpkg-deb --fsys-tarfile "$package" 2>"$errors" |
            tar --extract --directory="$root" --no-same-owner --preserve-permissions --anchored \
                --exclude=./usr/share/{locale,man,doc,info} 2>>"$errors" || {
            left=$(df --output=avail --human-readable "$root" | tail -n 1)
            left="can't unpack ${package##*/}: $(head -n 1 "$errors") (${left// /} left in $root)"
            rm -f "$errors"
            fail "$left"
        }
    done
    rm -f "$errors"
}
