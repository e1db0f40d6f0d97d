"""A recipe as Kubernetes manifests for the KubeRay operator: `deploy.manifests.rendering` puts them together.

Pure up to the file that is written: a recipe and options in, manifests out. Every number of a pod comes from the
recipe's `topology`, by the same bundles that Ray sets aside for a run (`orchestrator.placement`).
"""
