"""The embedded server's configuration text."""

from __future__ import annotations

import hashlib

import pytest

from nbray.control.config import hashed, key_prefix, quoted, render_config

PASSWORD = "correct horse"


def lines(channel_rules: bool = True) -> list[str]:
    text = render_config(
        session_dir="/s", socket_path="/s/redis.sock", cluster_id="c1", password=PASSWORD,
        channel_rules=channel_rules,
    )  # fmt: skip
    assert text.endswith("\n")
    return text.splitlines()


def test_it_listens_on_one_private_socket_and_nowhere_else() -> None:
    assert "port 0" in lines()
    assert 'unixsocket "/s/redis.sock"' in lines()
    assert "unixsocketperm 600" in lines()


def test_it_keeps_nothing_on_disk_and_evicts_nothing() -> None:
    assert {'save ""', "appendonly no", "maxmemory-policy noeviction", "daemonize no"} <= set(lines())


def test_only_the_clusters_user_may_do_anything_and_only_under_its_prefix() -> None:
    assert "user default off" in lines()
    assert lines()[-1] == (
        f"user nbray on #{hashlib.sha256(PASSWORD.encode()).hexdigest()} ~nbray:c1:* "
        "resetchannels &nbray:c1:* +@all -@admin -@dangerous -script +info +ping"
    )


def test_the_password_is_not_in_the_text() -> None:
    assert PASSWORD not in "\n".join(lines())
    assert hashed(PASSWORD) in "\n".join(lines())


def test_redis_6_0_gets_no_rule_for_channels() -> None:
    assert "&" not in lines(channel_rules=False)[-1]
    assert "resetchannels" not in lines(channel_rules=False)[-1]


@pytest.mark.parametrize("cluster_id", ["", "*", "a b", "a:b", "[ab]", "a\nport 1", "é", "x" * 65])
def test_a_cluster_id_that_would_widen_the_pattern_is_refused(cluster_id: str) -> None:
    with pytest.raises(ValueError, match="cluster ID"):
        key_prefix(cluster_id)


def test_a_path_cannot_add_a_line_or_end_its_own_word() -> None:
    assert quoted('/tmp/a b"c\\d\nport 1/é') == '"/tmp/a b\\x22c\\x5cd\\x0aport 1/\\xc3\\xa9"'
