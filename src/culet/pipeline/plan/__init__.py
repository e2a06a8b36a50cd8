"""What a recipe would do: steps, tokens, time and disk of each stage."""
