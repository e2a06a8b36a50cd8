"""What is free, by the system and by the control groups of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from culet.runtime.openvino.memory import available_memory

MEMINFO = "MemTotal: 16000 kB\nMemFree: 1 kB\nMemAvailable: 8000 kB\n"
FREE = 8000 * 1024


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(folder: str, *, limit: str, used: str, cached: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{folder}/memory.current": f"{used}\n",
        f"sys/fs/cgroup{folder}/memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 1\n",
    }


def old_group(folder: str, *, limit: str, used: str) -> dict[str, str]:
    base = f"sys/fs/cgroup/memory{folder}/memory"
    return {
        f"{base}.limit_in_bytes": limit,
        f"{base}.usage_in_bytes": used,
        f"{base}.stat": "inactive_file 9\ntotal_inactive_file 20\ntotal_active_file 3\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, FREE),
        ({"proc/self/cgroup": "0::/\n"} | group("", limit="max", used="1"), FREE),
        ({"proc/self/cgroup": "0::/\n"} | group("", limit="1000", used="400", cached=50), 651),
        # the smallest of the groups above counts
        (
            {"proc/self/cgroup": "0::/a/b\n"}
            | group("/a/b", limit="900", used="100")
            | group("/a", limit="700", used="300"),
            401,
        ),
        # a folder that the container does not see
        ({"proc/self/cgroup": "0::/out/side\n"} | group("", limit="70", used="20"), 51),
        # full to the brim
        ({"proc/self/cgroup": "0::/\n"} | group("", limit="70", used="90"), 0),
        (
            {"proc/self/cgroup": "4:cpu,memory:/box\n3:cpuset:/\n"}
            | old_group("/box", limit="1000", used="600"),
            423,
        ),
        ({"proc/self/cgroup": "4:memory:/box\n"} | old_group("", limit="50", used="30"), 43),
        (  # no limit, as version 1 says it
            {"proc/self/cgroup": "4:memory:/\n"}
            | old_group("", limit="9223372036854771712", used="600"),
            FREE,
        ),
    ],
)
def test_the_smallest_limit_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, files)) == expected


def test_a_system_that_says_nothing_is_not_guessed_at(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
