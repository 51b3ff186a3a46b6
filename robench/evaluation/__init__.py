"""From what is asked for to rows in the store and their summary: jobs, tasks, the scheduler."""
