"""Numbers of a report, computed once from the records: standings, gains over controls, grid cells, confusions."""
