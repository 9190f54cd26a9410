"""How much memory a guest is estimated to need."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.demand import (
    BalloonCalibration,
    GuestStatistics,
    Need,
    counter_growth,
    present_need,
    update,
)
from kubeballoon.core.units import MIB

WINDOW = 300.0


def stats(need: int, at: float, *, actual: int = 1024 * MIB) -> GuestStatistics:
    return GuestStatistics(actual=actual, updated=at, usable=actual - need, major_faults=0, swap_in=0)


SIZE = 1024 * MIB


def after(needs: list[int], seconds: float = 5) -> Need:
    """The estimate after samples of these needs."""
    need, before = None, None
    for index, value in enumerate(needs, start=1):
        now = stats(value, index * seconds)
        need, before = update(need, before, now, WINDOW), now
    assert need is not None
    return need


@given(st.lists(st.integers(0, 1024 * MIB), min_size=1, max_size=20))
def test_need_rises_at_once_and_never_above_the_largest_sample(needs: list[int]) -> None:
    assert needs[-1] <= after(needs).value <= max(needs)


def test_need_falls_slowly() -> None:
    fallen = after([800 * MIB, 100 * MIB]).value
    assert 700 * MIB < fallen < 800 * MIB
    assert after([800 * MIB] + [100 * MIB] * 600).value < 110 * MIB


def test_an_old_sample_changes_nothing() -> None:
    first = stats(100 * MIB, 10)
    need = update(None, None, first, WINDOW)
    assert update(need, first, first, WINDOW) is need
    assert update(need, None, stats(900 * MIB, 9), WINDOW) is need, (
        "as after a restart, when the estimate comes from the agent's last report"
    )


def test_with_autodeflate_a_balloon_that_inflates_is_no_demand() -> None:
    """With autodeflate `available` stays the same, whatever the balloon does."""
    calibration, actual, reported = BalloonCalibration(), SIZE, SIZE
    needs: list[int] = []
    for second in range(40):
        for tick in range(5):
            now = 100 + second + tick / 5
            if 5 <= second < 25:
                actual -= 4 * MIB
            reported = actual if tick == 0 else reported
            report = GuestStatistics(actual, float(100 + second), available=SIZE, usable=reported - 300 * MIB)
            calibration = calibration.observe(report, SIZE, now)
            if (measured := calibration.calibrate(report)) is not None:
                needs.append(present_need(measured) or 0)
    assert calibration.autodeflate
    assert needs[-1] == 300 * MIB
    assert max(needs) <= 340 * MIB, "before autodeflate was found out"


def test_a_clock_that_was_set_back_begins_the_estimate_anew() -> None:
    first, second = stats(900 * MIB, 7200), stats(100 * MIB, 10)
    need = update(None, None, first, WINDOW)
    need = update(need, first, second, WINDOW)
    assert need is not None
    assert (need.value, need.updated) == (100 * MIB, 10)
    need = update(need, second, stats(800 * MIB, 11), WINDOW)
    assert need is not None
    assert need.value == 800 * MIB


def test_calibration_continues_after_the_clock_was_set_back() -> None:
    first = stats(100 * MIB, 7200)
    calibration = BalloonCalibration().observe(first, SIZE, 7200)
    second = first._replace(updated=15, available=900 * MIB)
    calibration = calibration.observe(second, SIZE, 10).observe(second, SIZE, 20)
    assert calibration.calibrate(second) is not None


def test_swapping_in_and_refaulting_are_trouble_for_a_guest_with_little_to_spare() -> None:
    first, second = stats(900 * MIB, 10), stats(900 * MIB, 11)
    need = update(None, None, first, WINDOW)
    for changes in ({"swap_in": 50 * MIB}, {"major_faults": 5000}):
        troubled = update(need, first, second._replace(**changes), WINDOW)
        assert troubled is not None
        assert troubled.troubled
    spared = stats(SIZE - SIZE // 8, 11)
    for quiet in (second._replace(swap_in=1000, major_faults=20), spared._replace(swap_in=50 * MIB, major_faults=5000)):
        calm = update(need, first, quiet, WINDOW)
        assert calm is not None
        assert not calm.troubled, "files that are read by page faults are no trouble while there is memory to spare"


def test_trouble_lasts_until_the_guest_has_read_back_what_it_needs_or_has_twice_as_much_to_spare() -> None:
    calm, reading = stats(900 * MIB, 10), stats(900 * MIB, 11)._replace(swap_in=50 * MIB)
    troubled = update(update(None, None, calm, WINDOW), calm, reading, WINDOW)
    assert troubled is not None
    for spare, swap_in, lasts in [
        (SIZE // 8, 100 * MIB, True),
        (SIZE // 8, 50 * MIB, False),
        (SIZE // 4, 100 * MIB, False),
    ]:
        relieved = stats(SIZE - spare, 12)._replace(swap_in=swap_in)
        need = update(troubled, reading, relieved, WINDOW)
        assert need is not None
        assert need.troubled is lasts


def test_a_troubled_guest_works_with_what_it_has_swapped_out_as_well() -> None:
    counted = stats(900 * MIB, 10)._replace(swap_out=0)
    need = update(None, None, counted, WINDOW)
    thrashing = stats(900 * MIB, 11)._replace(swap_out=250 * MIB, swap_in=50 * MIB)
    troubled = update(need, counted, thrashing, WINDOW)
    assert troubled is not None
    assert troubled.present == 1100 * MIB
    assert troubled.value == 1300 * MIB, "by its next report as much again may be out"
    at_rest = update(troubled, thrashing, thrashing._replace(updated=12), WINDOW)
    assert at_rest is not None
    assert (at_rest.present, at_rest.swapped, at_rest.swap_growth) == (900 * MIB, 0, 0)
    again = thrashing._replace(updated=12, swap_out=400 * MIB, swap_in=100 * MIB)
    longer = update(troubled, thrashing, again, WINDOW)
    assert longer is not None
    assert (longer.swapped, longer.swap_growth) == (300 * MIB, 100 * MIB)


def test_what_a_guest_reads_back_beyond_what_it_has_swapped_out_in_this_trouble_is_nothing_it_lacks() -> None:
    counted = stats(900 * MIB, 10)._replace(swap_out=500 * MIB)
    need = update(None, None, counted, WINDOW)
    troubled = update(need, counted, counted._replace(updated=11, swap_in=50 * MIB), WINDOW)
    assert troubled is not None
    assert troubled.troubled
    assert (troubled.present, troubled.swapped, troubled.swap_growth) == (900 * MIB, 0, 0)
    assert troubled.value == 900 * MIB


def test_what_a_guest_swaps_out_while_it_is_in_no_trouble_is_not_counted() -> None:
    counted = stats(900 * MIB, 10)._replace(swap_out=0)
    need = update(None, None, counted, WINDOW)
    calm = update(need, counted, counted._replace(updated=11, swap_out=50 * MIB), WINDOW)
    assert calm is not None
    assert not calm.troubled
    assert calm.value == 900 * MIB


@pytest.mark.parametrize(
    ("changes", "troubled"),
    [
        ({"major_faults": 400}, False),
        ({"major_faults": 401}, True),
        ({"swap_in": 2 * MIB}, False),
        ({"swap_in": 2 * MIB + 1}, True),
        ({"major_faults": 401, "usable": None, "unused": 0}, True),
    ],
)
def test_trouble_is_more_than_200_faults_or_a_mib_read_from_swap_each_second(
    changes: dict[str, int], *, troubled: bool
) -> None:
    first = stats(900 * MIB, 10)
    need = update(None, None, first, WINDOW)
    after_two_seconds = update(need, first, first._replace(updated=12, **changes), WINDOW)
    assert after_two_seconds is not None
    assert after_two_seconds.troubled is troubled


def test_after_a_time_constant_an_average_has_come_to_within_a_third_of_the_present() -> None:
    before = Need(present=800 * MIB, fast=800 * MIB, slow=800 * MIB, updated=10)
    need = update(before, None, stats(100 * MIB, 70), WINDOW)
    assert need is not None
    assert need.fast == pytest.approx((100 + 700 * math.exp(-1)) * MIB), "its time constant is a fifth of the window"
    assert need.slow == pytest.approx((100 + 700 * math.exp(-1 / 5)) * MIB)


@pytest.mark.parametrize(("before", "now", "growth"), [(3, 5, 2), (5, 5, 0), (5, 3, 0), (None, 5, 0), (5, None, 0)])
def test_a_counter_grows_or_says_nothing(before: int | None, now: int | None, growth: int) -> None:
    assert counter_growth(before, now) == growth


def test_a_counter_that_fell_is_another_boot_and_no_trouble() -> None:
    first = stats(100 * MIB, 10)._replace(major_faults=10**6)
    need = update(None, None, first, WINDOW)
    again = update(need, first, stats(100 * MIB, 11), WINDOW)
    assert again is not None
    assert not again.troubled


def test_a_driver_that_says_nothing_gives_no_need() -> None:
    assert update(None, None, GuestStatistics(actual=MIB, updated=1), WINDOW) is None


def test_a_guest_without_memavailable_is_measured_by_free_memory_and_caches() -> None:
    old = GuestStatistics(actual=1000 * MIB, updated=1, unused=300 * MIB, disk_caches=200 * MIB)
    assert present_need(old) == 600 * MIB
    assert present_need(old._replace(disk_caches=None)) == 700 * MIB


def test_a_guest_that_could_spare_more_than_it_has_works_with_nothing() -> None:
    assert present_need(GuestStatistics(actual=MIB, updated=1, usable=MIB)) == 0
    assert present_need(GuestStatistics(actual=MIB, updated=1, usable=MIB + 5)) == 0


def test_calibration_finds_what_the_balloon_left_a_guest_when_it_reported() -> None:
    size, kernel = 512 * MIB, 42 * MIB
    report = GuestStatistics(actual=size, updated=10, available=size - kernel, usable=400 * MIB)
    calibration = BalloonCalibration().observe(report, size, 8.0).observe(report, size, 10.5)
    # The balloon is set to 200 MiB; the guest's report is still the one from before.
    moved = report._replace(actual=200 * MIB)
    calibration = calibration.observe(moved, size, 11.0)
    stale = calibration.calibrate(moved)
    assert stale is not None
    assert present_need(stale) == 112 * MIB
    fresh = calibration.calibrate(moved._replace(updated=12, available=200 * MIB - kernel, usable=88 * MIB))
    assert fresh is not None
    assert present_need(fresh) == 112 * MIB


def test_calibration_needs_a_report_made_while_the_balloon_stood_still() -> None:
    report = GuestStatistics(actual=200 * MIB, updated=10, available=150 * MIB, usable=50 * MIB)
    assert BalloonCalibration().observe(report, 512 * MIB, 12.0).calibrate(report) is None
    since_then = BalloonCalibration().observe(report, 512 * MIB, 10.0).observe(report, 512 * MIB, 10.5)
    assert since_then.calibrate(report) is None, "reports are dated in whole seconds: it may have been made before"


def test_without_the_guest_s_whole_memory_only_reports_made_while_the_balloon_stood_still_can_be_used() -> None:
    report = GuestStatistics(actual=200 * MIB, updated=10, usable=50 * MIB)
    calibration = BalloonCalibration().observe(report, 512 * MIB, 10.0)
    assert calibration.calibrate(report) is None
    later = report._replace(updated=11)
    assert calibration.observe(later, 512 * MIB, 11.2).calibrate(later) is later


def test_a_second_sample_at_the_same_moment_forgets_nothing() -> None:
    size, kernel = 512 * MIB, 42 * MIB
    report = GuestStatistics(actual=size, updated=10, available=size - kernel, usable=400 * MIB)
    calibration = BalloonCalibration().observe(report, size, 8.0).observe(report, size, 10.5)
    moved = report._replace(actual=200 * MIB)
    calibration = calibration.observe(moved, size, 11.0).observe(moved, size, 11.0)
    measured = calibration.calibrate(moved)
    assert measured is not None
    assert present_need(measured) == 112 * MIB


def test_statistics_that_say_what_the_balloon_left_the_guest_need_no_calibration() -> None:
    report = GuestStatistics(actual=200 * MIB, updated=10, usable=50 * MIB, actual_at_report=300 * MIB)
    assert BalloonCalibration().calibrate(report) is report
    assert present_need(report) == 250 * MIB


@pytest.mark.parametrize(("moved", "found"), [(16 * MIB, True), (16 * MIB - 1, False)])
def test_only_a_balloon_that_moved_by_16_mib_shows_autodeflate(moved: int, found: bool) -> None:  # noqa: FBT001 - parameter
    report = GuestStatistics(SIZE, 10, available=SIZE - 42 * MIB, usable=SIZE // 2)
    calibration = BalloonCalibration().observe(report, SIZE, 10.3).observe(report, SIZE, 10.5)
    calibration = calibration.observe(report._replace(actual=SIZE - moved), SIZE, 10.7)
    calibration = calibration.observe(report._replace(actual=SIZE - moved, updated=11), SIZE, 11.2)
    assert calibration.autodeflate is found
    assert calibration.observe(report._replace(updated=12), SIZE, 5.0).autodeflate is found, "the clock was set back"
    assert not calibration.observe(report._replace(updated=12), 2 * SIZE, 12.0).autodeflate, "memory was hotplugged"
