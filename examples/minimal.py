"""The shortest loop: a decision vector in, a trained and validated network out.

    python examples/minimal.py

The environment generates images of random shapes. A network trains on them for two steps. Then the network says what
it sees in photos, or here in the built-in stand-in for photos. The reward is minus its error. The decision vector
stays the same in this script, so nothing is tuned yet.

You see one line a step. The mean angle error of the network falls, because the weights are kept from step to step.
At the end the ledger says what was spent. The first time, the script takes half a minute: it makes the stand-in and
compiles the renderer.
"""

import math

import gymnasium

import hgenv

gymnasium.register_envs(hgenv)  # says what the import is for: it made the ids known
env = gymnasium.make("hgenv/ShapeNormals-v0", batch_size=16)
observation, info = env.reset(seed=0)
env.unwrapped.warm_up()  # compile everything before the clock counts; nothing changes by it
print(f"before training: {math.degrees(info['loss']):.1f} degrees")

beta = env.unwrapped.space.initial.numpy()  # an ordinary decision vector; env.action_space.sample() is a random one
for _ in range(10):
    observation, reward, terminated, truncated, info = env.step(beta)
    print(f"step {info['update']:2}: {math.degrees(-reward):.1f} degrees")
    if terminated or truncated:
        break

spent = env.unwrapped.ledger
print(f"spent: {spent.counts['samples']} samples, {spent.counts['training_steps']} training steps")
print(f"       {spent.spent('cpu_seconds'):.1f} CPU seconds")
env.close()
