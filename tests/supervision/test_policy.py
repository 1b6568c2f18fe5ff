from fledge.supervision.policy import PING_S, Restarts, after_crash, is_hung, suspended_s


def test_delays_double_up_to_a_minute() -> None:
    record, delays = Restarts(), []
    for number in range(8):
        decision = after_crash(record, now=number * 100.0)
        delays.append(decision.delay_s)
        assert not decision.give_up  # only two of its crashes are in two minutes
        record = decision.record
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert record.count == 8
    for number in range(8, 2000):  # more than a day
        decision = after_crash(record, now=number * 100.0)
        record = decision.record
    assert (decision.delay_s, record.count) == (60, 2000)


def test_five_crashes_in_two_minutes_are_a_loop() -> None:
    record, verdicts = Restarts(), []
    for number in range(5):
        decision = after_crash(record, now=number * 20.0)
        verdicts.append(decision.give_up)
        record = decision.record
    assert verdicts == [False] * 4 + [True]


def test_candidate_is_abandoned_after_five_crashes() -> None:
    record, verdicts = Restarts(), []
    for number in range(5):
        decision = after_crash(record, now=number * 100.0, candidate=True)
        verdicts.append(decision.give_up)
        record = decision.record
    assert verdicts == [False] * 4 + [True]


def test_ten_healthy_minutes_reset_the_restart_delay() -> None:
    record = Restarts()
    for number in range(4):
        record = after_crash(record, now=float(number)).record
    decision = after_crash(record, now=700.0)
    assert (decision.delay_s, decision.give_up) == (1.0, False)
    assert after_crash(Restarts((0.0, 1.0)), now=600.0).delay_s == 4.0
    assert after_crash(Restarts((0.0, 1.0)), now=601.0).delay_s == 1.0


def test_silent_child_is_hung_unless_the_supervisor_was_suspended() -> None:
    assert not is_hung(last_heard=100.0, now=129.0, timeout_s=30.0)
    assert is_hung(last_heard=100.0, now=131.0, timeout_s=30.0)
    assert suspended_s(before=100.0, now=101.0) == 0.0
    assert suspended_s(before=100.0, now=3700.0) == 3600.0 - 2 * PING_S
