"""Pictures of what was stored and of what models answer, each with its data as csv."""
