"""A signal is a request to stop, the second one an order."""

from __future__ import annotations

import signal

import pytest

from soundgan.training.signals import Stopped, StopSignal


def test_a_signal_that_is_ignored_stays_ignored():
    """What nohup asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.name == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_asks_and_the_second_stops(capsys):
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGINT"
        assert "SIGINT: finishing this step and saving" in capsys.readouterr().out
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_work_that_can_be_done_again_is_stopped_at_once():
    with StopSignal() as stop:
        with pytest.raises(Stopped), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with pytest.raises(Stopped), stop.at_once():
            pytest.fail("it had been asked to stop")
