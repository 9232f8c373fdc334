package status

import "github.com/walferry/walferry/internal/state"

// nextSteps returns the commands that make sense where the migration stands; auto: it cuts over by itself.
func (st *Status) nextSteps(auto bool) []string {
	var steps []string
	switch {
	case st.Phase == "":
		steps = []string{"check", "migrate"}
	case st.Phase == state.Finished, st.Phase == state.Aborted:
		steps = []string{"cleanup"}
	case !st.Running:
		steps = []string{"migrate"}
	case len(st.Requests) > 0:
	case st.Phase == state.Following && auto:
	case st.Phase == state.Following:
		steps = []string{"verify", "cutover --dry-run", "cutover"}
	case st.Phase == state.Switched && st.WayBack.State == state.BackFollowing:
		steps = []string{"fallback", "finish"}
	case st.Phase == state.Switched && st.WayBack.State == state.BackLost:
		steps = []string{"finish"}
	}
	name := ""
	if st.Name != "" && st.Name != "default" {
		name = " --name " + st.Name
	}
	commands := make([]string, len(steps))
	for i, step := range steps {
		commands[i] = "walferry " + step + name
	}
	return commands
}
