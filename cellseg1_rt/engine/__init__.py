"""From a bundle's graphs to engines for a card: recipe, builder, memory, verification."""
