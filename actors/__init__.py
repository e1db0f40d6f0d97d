"""The Ray actors (rollout, reward, learner) and the engines and weight channels inside them."""
