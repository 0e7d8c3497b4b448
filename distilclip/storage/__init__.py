"""The ground floor: files, the Hub, pictures, weights. It imports none of ours."""
