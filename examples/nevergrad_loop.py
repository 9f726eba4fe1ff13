"""A search method of your own: ask nevergrad, probe the environment, tell nevergrad.

    python examples/nevergrad_loop.py

A probe says what a step at some decision vector would give. It changes nothing, but it is paid for. So any method with
`ask` and `tell` can be driven in four lines. (`hgenv.optimizers.Evolution` does the same with more care.)

You see the loss fall from generation to generation. At the end the ledger says what the search cost.
"""

import gymnasium
import nevergrad
import torch

import hgenv

POPULATION, GENERATIONS = 8, 10

gymnasium.register_envs(hgenv)  # says what the import is for: it made the ids known
env = gymnasium.make("hgenv/Quadratic-v0", unroll_steps=16).unwrapped
env.reset(seed=0)
space = env.space

# In fractions of each component's range, so that one step size suits all components.
start = nevergrad.p.Array(init=space.normalize(space.initial).numpy(), lower=0.0, upper=1.0)
start.random_state.seed(0)
search = nevergrad.optimizers.CMA(start, num_workers=POPULATION)

print(f"loss at the initial decision vector: {env.probe(space.initial[None])[0].loss:.4f}")
for generation in range(1, GENERATIONS + 1):
    asked = [search.ask() for _ in range(POPULATION)]
    betas = torch.stack([space.denormalize(torch.from_numpy(candidate.value)) for candidate in asked])
    outcomes = env.probe(betas)
    for candidate, outcome in zip(asked, outcomes, strict=True):
        search.tell(candidate, env.task.max_loss if outcome.loss is None else outcome.loss)
    print(f"generation {generation:2}: best loss {min(o.loss for o in outcomes if o.ok):.4f}")

best = space.project(space.denormalize(torch.from_numpy(search.recommend().value)))
env.step(best)  # train there, and keep the weights
print(f"step at the recommendation: loss {env.outcome.loss:.4f}, beta {[round(x, 2) for x in best.tolist()]}")
print(f"spent: {env.ledger.counts['samples']} samples, {env.ledger.counts['training_steps']} training steps")
