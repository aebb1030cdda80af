"""What probes make of a container's health."""

from scow.engine.health import judge
from scow.wire.container import Health, HealthcheckResult


def probe(code: int) -> HealthcheckResult:
    return HealthcheckResult(start="", end="", exit_code=code, output="")


def test_one_success_is_health() -> None:
    health = judge(Health(status="starting", failing_streak=2), probe(0), retries=3, in_start_period=False)
    assert (health.status, health.failing_streak) == ("healthy", 0)


def test_so_many_failures_in_a_row_as_retries_are_ill_health() -> None:
    health = Health(status="healthy")
    for expected in ("healthy", "healthy", "unhealthy", "unhealthy"):
        health = judge(health, probe(1), retries=3, in_start_period=False)
        assert health.status == expected
    assert health.failing_streak == 4


def test_failures_while_it_starts_do_not_count_until_it_was_healthy() -> None:
    health = judge(Health(status="starting"), probe(1), retries=1, in_start_period=True)
    assert (health.status, health.failing_streak) == ("starting", 0)
    health = judge(judge(health, probe(0), retries=1, in_start_period=True), probe(1), retries=1, in_start_period=True)
    assert health.status == "unhealthy"


def test_the_last_five_results_are_kept() -> None:
    health = Health(status="starting")
    for code in range(1, 8):
        health = judge(health, probe(code), retries=3, in_start_period=False)
    assert [result.exit_code for result in health.log] == [3, 4, 5, 6, 7]
