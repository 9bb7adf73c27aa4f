"""What `import fdfa_cli` offers, and what the command line calls.

recipes     `load`: a recipe from a file, a shipped name, a mapping or another recipe
trainings   `train`, `resume`
studies     `sweep`, `compare`
stored      `Run`, `runs`: what is stored, read back
"""
