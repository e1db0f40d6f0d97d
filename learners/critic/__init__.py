"""The critic: a value model that says what reward a state is expected to bring, and the advantages made of it.

It is loaded only where `algorithm.advantage` asks for values (`learners.critic.advantages`).
"""
