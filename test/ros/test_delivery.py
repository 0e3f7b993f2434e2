"""What counts as starving, from arrivals and losses alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panosam2_ros.delivery import Delivery

WINDOW_S = 3.0
EVENTS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60
)


@given(events=EVENTS)
def test_counts_are_those_of_the_window(events: list[tuple[float, int, int]]) -> None:
    delivery, now, past = Delivery(WINDOW_S, 0.0), 0.0, []
    for pause, arrived, lost in events:
        now += pause
        past.append((now, arrived, lost))
        delivery.add(now, arrived=arrived, lost=lost)
        recent = [event for event in past if now - event[0] <= WINDOW_S]
        assert delivery.arrived == sum(arrived for _, arrived, _ in recent)
        assert delivery.lost == sum(lost for *_, lost in recent)
        if now <= WINDOW_S:
            assert not delivery.starving(now), "too little is known"
        else:
            assert delivery.starving(now) == (delivery.arrived <= delivery.lost)
    assert delivery.starving(now + 2 * WINDOW_S), "nothing has come since"
    delivery.begin(now)
    assert not delivery.starving(now + WINDOW_S / 2)


def test_a_trickle_is_starvation_and_a_loss_now_and_then_is_none() -> None:
    trickle, good = Delivery(WINDOW_S, 0.0), Delivery(WINDOW_S, 0.0)
    for i in range(75):
        trickle.add(i / 15, arrived=int(i % 25 == 0), lost=int(i % 25 > 0))
        good.add(i / 15, arrived=int(i % 10 > 0), lost=int(i % 10 == 0))
    assert trickle.starving(5.0)
    assert not good.starving(5.0)
