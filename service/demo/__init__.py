"""The main job on one machine: a cluster, Flask instances, decision services and Traefik, all real."""
