"""What frozen features encode: the heat map, layer curves and further analyses of linear probes."""
