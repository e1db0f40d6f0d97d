"""A scoring child: the program that a pool starts as `python -m rewards.child FD PARENT_PID`.

It answers one response at a time and knows nothing of deadlines: the pool keeps them and kills. What the terms import
and compile is loaded before the child reports ready, and the memory limit counts from there.
"""

import gc
import os
import socket
import sys

from rewards.compose import Reward, RewardSetupError, one_line
from rewards.confinement import die_with_parent, install_guard, limit_memory
from rewards.settings import RewardSettings
from rewards.wire import Channel, ChannelClosedError, Reply


def main(channel_fd: int, parent_pid: int) -> None:
    die_with_parent(parent_pid)
    # What a term prints belongs in the log, and stdout may be a pipe that somebody parses.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    channel = Channel(socket.socket(fileno=channel_fd))
    try:
        settings = RewardSettings.model_validate_json(channel.receive())
        reward = _start(settings, channel)
        if reward is not None:
            limit_memory(settings.memory_mb)
            install_guard()
            channel.send_reply(Reply("ready"))
            _serve(reward, channel)
    except ChannelClosedError:
        return  # the pool is gone


def _start(settings: RewardSettings, channel: Channel) -> Reward | None:
    try:
        reward = Reward(settings)
        reward.warm_up()
    except RewardSetupError as refusal:
        channel.send_reply(Reply("refused", reason=str(refusal)))
        return None
    except Exception as raised:  # noqa: BLE001 - whatever a library's first use raises; the pool reports it
        channel.send_reply(Reply("refused", reason=one_line("reward.terms", raised)))
        return None
    gc.collect()
    gc.freeze()  # the libraries stay: no later collection needs to walk them
    return reward


def _serve(reward: Reward, channel: Channel) -> None:
    while True:
        # No deadline: an idle child waits for work as long as its parent lives, and dies with it.
        response = channel.receive_response()
        try:
            score = reward.score(response)
        except MemoryError:
            channel.send_reply(Reply("out_of_memory"))
            return  # what filled the memory may be a cache: a fresh child is cheaper than a second failure
        channel.send_reply(Reply("score", score))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
