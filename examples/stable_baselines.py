"""An agent from Stable-Baselines3 chooses the decision vectors. Needs `pip install stable-baselines3`.

    python examples/stable_baselines.py

Every environment of hgenv is a Gymnasium environment. So an agent that knows nothing of hgenv can act in it. This one
is Soft Actor-Critic. It acts in the smallest environment: four numbers decide where a cloud of points lies, and the
"network" follows the mean of the cloud.

You see the mean reward of the first and of the last episodes. It rises towards zero. The last line is what hybrid
gradient reaches when it starts anew in each episode. It may ask for the gradient, and the agent may not.
"""

import gymnasium
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor

import hgenv
from hgenv.optimizers import hybrid_gradient

gymnasium.register_envs(hgenv)  # says what the import is for: it made the ids known

STEPS, LENGTH = 400, 20

env = Monitor(gymnasium.make("hgenv/Quadratic-v0", max_updates=LENGTH))
agent = SAC("MlpPolicy", env, seed=0, learning_starts=100, learning_rate=3e-3, gamma=0.5, device="cpu")
agent.learn(total_timesteps=STEPS)

rewards = [total / LENGTH for total in env.get_episode_rewards()]
print(f"agent, first 5 episodes: mean reward {sum(rewards[:5]) / 5:.3f}")
print(f"agent, last 5 episodes:  mean reward {sum(rewards[-5:]) / 5:.3f}")
env.close()

plain = gymnasium.make("hgenv/Quadratic-v0", max_updates=LENGTH).unwrapped
rewards = []
for episode in range(5):
    plain.reset(seed=episode)
    optimizer = hybrid_gradient(plain.space, seed=0)  # a new one: it knows nothing of the episode before
    for _ in range(LENGTH):
        optimizer.update(plain)
        rewards.append(-plain.outcome.loss)
print(f"hybrid gradient, each episode by itself: mean reward {sum(rewards) / len(rewards):.3f}")
