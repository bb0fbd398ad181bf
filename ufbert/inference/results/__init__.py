"""Result rows into files that are whole, or can be continued."""
