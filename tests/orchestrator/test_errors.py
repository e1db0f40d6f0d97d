"""One line for a person, whatever a remote error looks like."""

from orchestrator.errors import last_line


def test_the_last_line_of_a_remote_traceback_says_what_happened() -> None:
    assert last_line(RuntimeError("ray::Worker.update()\n  File x\nEngineError: the engine died\n\n")) == (
        "EngineError: the engine died"
    )


def test_guesses_about_a_killed_process_are_left_out() -> None:
    told = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR, a guess"
    assert last_line(RuntimeError(told)) == "The actor is dead because its worker process has died."


def test_an_error_without_words_has_its_name() -> None:
    assert last_line(TimeoutError()) == "TimeoutError"
