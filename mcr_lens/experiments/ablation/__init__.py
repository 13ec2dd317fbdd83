"""The ablation study: arms, doses, effects, claims."""
