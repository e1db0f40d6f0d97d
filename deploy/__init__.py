"""Topology and deployment. Empty so far: a run starts Ray on the local machine or joins an existing cluster."""
