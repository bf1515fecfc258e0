"""A campaign as a chain of Slurm jobs: checked, rendered, submitted, followed, taken up again."""
