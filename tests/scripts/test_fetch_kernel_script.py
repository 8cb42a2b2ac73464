"""What scripts/fetch-kernel fetches, follows, keeps and says; apt and dpkg are stood in for."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# What a package depends on, of those that there are; and a package as dpkg has it: a tar file.
APT_CACHE = """#!/bin/sh
for last; do :; done
[ -e "$PACKAGES/$last.depends" ] && cat "$PACKAGES/$last.depends"
"""
APT_GET = """#!/bin/sh
echo "$@" >>"$PACKAGES/asked"
for last; do :; done
case $last in
update)
    [ -e "$PACKAGES/unreachable" ] || exit 0
    printf 'E: no route\\nE: more\\n' >&2
    exit 100
    ;;
*) cp "$PACKAGES/$last.tar" "$last.deb" ;;
esac
"""
DPKG_DEB = """#!/bin/sh
cat "$2"
"""
FULL_DISK = """#!/bin/sh
cat >/dev/null
for file in 1 2 3; do
    echo "tar: ./usr/file$file: Cannot write: No space left on device" >&2
done
exit 2
"""


class Tree:
    """The scripts in a tree of their own, and the packages of a distribution of three."""

    def __init__(self, folder):
        self.folder = folder
        self.packages = folder / "packages"
        self.tools = folder / "tools"
        for each in (self.packages, self.tools, folder / "scripts" / "upkeep"):
            each.mkdir(parents=True)
        for name in ("fetch-kernel", "upkeep/packages.sh"):
            shutil.copy(SCRIPTS / name, folder / "scripts" / name)
        for name, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET), ("dpkg-deb", DPKG_DEB)):
            self.tool(name, text)

    def tool(self, name, text):
        path = self.tools / name
        path.write_text(text)
        path.chmod(0o755)

    def package(self, name, *files, depends=()):
        lines = "".join(f"  Depends: {each}\n" for each in depends)
        (self.packages / f"{name}.depends").write_text(f"{name}\n{lines}")
        content = self.folder / "content"
        content.write_text(name)
        with tarfile.open(self.packages / f"{name}.tar", "w") as tar:
            for file in files:
                tar.add(content, f"./{file}")

    def fetch(self, *words):
        environment = os.environ | {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "PACKAGES": str(self.packages),
            # Its folder for what is partial.
            "TMPDIR": str(self.folder),
        }
        command = [self.folder / "scripts" / "fetch-kernel", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_its_usage_is_printed(tree, word):
    ran = tree.fetch(word)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert "scripts/fetch-kernel [--suite S] [--arch A] [PACKAGE]" in ran.stdout
    assert "#" not in ran.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--nothing"],
        ["--suite"],
        ["--arch"],
        ["--arch", "arm64"],
        ["--suite", "../sid"],
        ["Linux"],
        ["linux-image-amd64", "linux-image-cloud-amd64"],
    ],
)
def test_bad_usage_is_one_line_and_status_2(tree, words):
    ran = tree.fetch(*words)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert 1 == ran.stderr.count("\n")
    assert "see scripts/fetch-kernel --help" in ran.stderr


def test_a_package_is_followed_to_the_one_with_the_kernel_and_kept(tree):
    tree.package("linux-image-amd64", depends=["linux-image-6.1-amd64"])
    tree.package("linux-image-6.1-amd64", "boot/vmlinuz-6.1-amd64", depends=["kmod"])
    ran = tree.fetch("linux-image-amd64")
    path = tree.folder / ".kernels/linux-image-amd64/boot/vmlinuz-6.1-amd64"
    assert (0, f"{path}\n", "") == (ran.returncode, ran.stdout, ran.stderr)
    assert "linux-image-6.1-amd64" == path.read_text()
    shutil.rmtree(tree.packages)
    assert (0, f"{path}\n") == ((ran := tree.fetch("linux-image-amd64")).returncode, ran.stdout)


def test_a_kernel_among_its_modules_is_found_behind_two_packages(tree):
    tree.package("linux-image-cloud-amd64", depends=["linux-base-cloud", "linux-image-7.2-cloud"])
    tree.package("linux-image-7.2-cloud", depends=["dracut", "linux-binary-7.2+deb14-cloud"])
    tree.package(
        "linux-binary-7.2+deb14-cloud",
        "usr/lib/modules/7.2+deb14-cloud/vmlinuz",
        depends=["linux-base-7.2"],
    )
    ran = tree.fetch()
    path = tree.folder / ".kernels/linux-image-cloud-amd64/boot/vmlinuz-7.2+deb14-cloud"
    assert (0, f"{path}\n", "") == (ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize(
    ("words", "suite", "arch", "package"),
    [
        (["--suite", "sid"], "sid", "amd64", "linux-image-cloud-amd64"),
        (["--arch", "i386"], "bookworm", "i386", "linux-image-686"),
        (
            ["--arch", "i386", "--suite", "bullseye", "linux-image-686-pae"],
            "bullseye",
            "i386",
            "linux-image-686-pae",
        ),
    ],
)
def test_a_suite_and_an_architecture_have_lists_and_a_folder_of_their_own(
    tree, words, suite, arch, package
):
    tree.package(package, "boot/vmlinuz-1")
    ran = tree.fetch(*words)
    path = tree.folder / f".kernels/{suite}-{arch}-{package}/boot/vmlinuz-1"
    assert (0, f"{path}\n", "") == (ran.returncode, ran.stdout, ran.stderr)
    update, download = (tree.packages / "asked").read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(f" download {package}")
    for asked in (update, download):
        assert f"APT::Architecture={arch} " in asked


@pytest.mark.parametrize("words", [[], ["--suite", "trixie"]])
def test_a_package_that_is_not_there_is_one_line(tree, words):
    ran = tree.fetch(*words)
    assert (1, "") == (ran.returncode, ran.stdout)
    assert 1 == ran.stderr.count("\n")
    assert "no such package" in ran.stderr
    assert not (tree.folder / ".kernels").exists()


def test_a_package_without_a_kernel_is_one_line(tree):
    tree.package("linux-image-cloud-amd64", "boot/config-1")
    ran = tree.fetch()
    assert (1, "fetch-kernel: linux-image-cloud-amd64: no vmlinuz in it\n") == (
        ran.returncode,
        ran.stderr,
    )


def test_lists_that_cannot_be_had_are_one_line_with_the_first_error(tree):
    (tree.packages / "unreachable").touch()
    ran = tree.fetch("--suite", "sid", "--arch", "i386")
    assert (1, "fetch-kernel: can't get the lists of sid for i386: no route\n") == (
        ran.returncode,
        ran.stderr,
    )


def test_a_full_disk_is_one_line_however_many_files_were_to_come(tree):
    tree.package("linux-image-cloud-amd64", "boot/vmlinuz-1")
    tree.tool("tar", FULL_DISK)
    ran = tree.fetch()
    assert (1, "") == (ran.returncode, ran.stdout)
    assert 1 == ran.stderr.count("\n")
    assert "can't unpack linux-image-cloud-amd64.deb" in ran.stderr
    assert "No space left on device" in ran.stderr
    assert not (tree.folder / ".kernels").exists()


def test_what_only_people_read_is_not_unpacked(tree):
    names = [f"usr/share/{each}/x" for each in ("doc", "man", "info", "locale", "bochs")]
    tree.package("some", *names, "usr/lib/usr/share/doc")
    command = f"script=x; . scripts/upkeep/packages.sh; unpack out {tree.packages}/some.tar"
    environment = os.environ | {"PATH": f"{tree.tools}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", command], check=True, cwd=tree.folder, env=environment)
    found = [each for each in (tree.folder / "out").rglob("*") if each.is_file()]
    assert ["usr/lib/usr/share/doc", "usr/share/bochs/x"] == sorted(
        str(each.relative_to(tree.folder / "out")) for each in found
    )


def test_a_module_is_fetched_beside_its_kernel_and_kept(tree):
    path = "lib/modules/6.1/kernel/lib/crc7.ko"
    tree.package("linux-image-6.1", "boot/vmlinuz-6.1", path, "lib/modules/6.1/kernel/crc70.ko")
    tree.package("linux-image-cloud-amd64", depends=["linux-image-6.1"])
    kept = tree.folder / ".kernels" / "linux-image-cloud-amd64"
    for _ in range(2):
        ran = tree.fetch("--module", "crc7")
        assert (f"{kept}/modules/crc7.ko\n", "") == (ran.stdout, ran.stderr)
    assert f"{kept}/boot/vmlinuz-6.1\n" == tree.fetch().stdout
    asked = (tree.packages / "asked").read_text().splitlines()
    assert 1 == sum("download" in line for line in asked)
    ran = tree.fetch("--module", "none")
    assert (1, "") == (ran.returncode, ran.stdout)
    assert "fetch-kernel: linux-image-cloud-amd64: no module none in it\n" == ran.stderr
    assert 2 == tree.fetch("--module", "../x").returncode
