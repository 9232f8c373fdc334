package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/fleet"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/web"
)

func fleetRunCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "run all migrations within the limits, in the foreground; the same command again goes on, on any host", ArgsUsage: "FILE",
		Flags: listenFlags(),
		Action: func(c *cli.Context) error {
			file, o, err := fleetFile(ui, c)
			if err != nil {
				return err
			}
			f, err := fleet.Resolve(c.Context, file, o)
			if err != nil {
				return err
			}
			s := &settings{flags: c}
			var shows []web.Migration
			for _, d := range f.Databases {
				d.Config.Logger = ui.logger
				shows = append(shows, shown(d.Config))
			}
			end, err := ui.listen(s.access(), nil, shows...)
			if err != nil {
				return err
			}
			defer end()
			ended, err := f.Run(c.Context, fleet.RunConfig{Logger: ui.logger, Options: o})
			if err != nil {
				return err
			}
			return ui.fleetEnded(ended)
		},
	}
}

// fleetEnded says how the run of a fleet has ended.
func (u *ui) fleetEnded(e fleet.Ended) error {
	if left := len(e.Left) + len(e.Unknown); left > 0 {
		problem := fmt.Sprintf("stopped by a signal; %d of %d migrations have not come to their end", len(e.Left), len(e.Left)+e.Finished+e.Aborted)
		if len(e.Unknown) > 0 {
			problem += "; instances that have never answered: " + strings.Join(e.Unknown, ", ")
		}
		return &fail.Error{Kind: fail.Stopped, Problem: problem, Advice: "`walferry fleet run` goes on; until then slots hold back WAL on the sources"}
	}
	text := fmt.Sprintf("%d migrations are finished", e.Finished)
	if e.Aborted > 0 {
		text += fmt.Sprintf(", %d were given up", e.Aborted)
	}
	_, err := fmt.Fprintln(u.stdout, text+"; once no client uses the sources any more: `walferry fleet cleanup`")
	return writeErr(err)
}

// waveFlag says which wave.
func waveFlag() cli.Flag {
	return &cli.IntFlag{Name: "wave", Usage: "the number of the wave"}
}

// wave is the wave that was asked for.
func wave(c *cli.Context) (int, error) {
	if c.Int("wave") < 1 {
		return 0, &fail.Error{Kind: fail.Usage, Problem: "no --wave is given", Advice: "give the number of the wave; databases of which the file says nothing else are in wave 1"}
	}
	return c.Int("wave"), nil
}

func fleetCutoverCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "cutover", Usage: "cut a wave over: refused before it is approved, outside of its window, or if not all of it follows", ArgsUsage: "FILE",
		Flags: []cli.Flag{
			waveFlag(),
			&cli.StringFlag{Name: "approved", Usage: "who has approved, where the file does not say it"},
			&cli.BoolFlag{Name: "ready", Usage: "cut over those that follow, and leave the others where they are"},
			&cli.BoolFlag{Name: "dry-run", Usage: "rehearse each cutover of the wave"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error { return switchWave(ui, c, (*fleet.Fleet).Cutover) },
	}
}

func fleetFallbackCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "fallback", Usage: "after a cutover with a way back: switch a wave back to its old servers", ArgsUsage: "FILE",
		Flags:  []cli.Flag{waveFlag(), &cli.BoolFlag{Name: "dry-run", Usage: "rehearse each fallback of the wave"}, jsonFlag()},
		Action: func(c *cli.Context) error { return switchWave(ui, c, (*fleet.Fleet).Fallback) },
	}
}

func switchWave(ui *ui, c *cli.Context, do func(*fleet.Fleet, context.Context, int, fleet.SwitchConfig) (*fleet.Switched, error)) error {
	number, err := wave(c)
	if err != nil {
		return err
	}
	f, err := resolved(ui, c)
	if err != nil {
		return err
	}
	if len(f.Problems) > 0 {
		return f.Problems[0].Err // it may have databases of the wave
	}
	s, err := do(f, c.Context, number, fleet.SwitchConfig{
		Approved: c.String("approved"), Ready: c.Bool("ready"), DryRun: c.Bool("dry-run"),
		Step: func(name, text string) { ui.step(name, text) },
	})
	if s == nil {
		return err
	}
	var told error
	if c.Bool("json") {
		told = ui.result(s)
	} else {
		for _, one := range s.Databases {
			line := one.Name + ": " + one.State
			if one.State == "done" && one.PauseMS != nil {
				line += fmt.Sprintf(", writes were refused for %d ms", *one.PauseMS)
			}
			if one.Error != "" {
				line += ": " + one.Error
			}
			if _, told = fmt.Fprintln(ui.stdout, clean(line)); told != nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	return writeErr(told)
}

func fleetAbortCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "abort", Usage: "give one migration up, by its name as in status; the others go on", ArgsUsage: "NAME FILE",
		Action: func(c *cli.Context) error {
			f, err := resolved(ui, c, "NAME")
			if err != nil {
				return err
			}
			if err := f.Abort(c.Context, c.Args().First()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(ui.stdout, "aborted: the source has nothing of %s any more; the target keeps its data, marked unfit\n", clean(c.Args().First()))
			return writeErr(err)
		},
	}
}

// eachOf does something to every database of a wave that is in a phase, and says what has become of it.
func eachOf(ui *ui, c *cli.Context, phases []migration.Phase, did string, do func(*fleet.Database) error) error {
	number, err := wave(c)
	if err != nil {
		return err
	}
	f, err := resolved(ui, c)
	if err != nil {
		return err
	}
	result, err := f.Each(c.Context, number, phases, do)
	if err != nil {
		return err
	}
	for _, one := range result {
		text := did
		if one.Err != nil {
			text = "failed: " + one.Err.Error()
		} else if one.Other != "" {
			text = "left as it is: " + one.Other
		}
		if _, err := io.WriteString(ui.stdout, clean(one.Name+": "+ui.oneLine(text))+"\n"); err != nil {
			return writeErr(err)
		}
	}
	for _, one := range result {
		if one.Err != nil {
			return fmt.Errorf("%s: %w", one.Name, one.Err)
		}
	}
	return nil
}

func fleetFinishCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "finish", Usage: "give the ways back of a wave up, which ends its migrations", ArgsUsage: "FILE", Flags: []cli.Flag{waveFlag()},
		Action: func(c *cli.Context) error {
			return eachOf(ui, c, []migration.Phase{migration.Switched}, "finished", func(d *fleet.Database) error {
				_, err := migration.Finish(c.Context, d.Config)
				return err
			})
		},
	}
}

func fleetCleanupCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "cleanup", Usage: "after the end: remove everything of walferry's of a wave's migrations from all servers", ArgsUsage: "FILE", Flags: []cli.Flag{waveFlag()},
		Action: func(c *cli.Context) error {
			err := eachOf(ui, c, []migration.Phase{migration.Finished, migration.Aborted}, "clean", func(d *fleet.Database) error {
				left, err := migration.Cleanup(c.Context, d.Config)
				if err != nil {
					return err
				}
				return migration.NewLeftError(left)
			})
			if err == nil {
				ui.note("nothing is known of what was cleaned up: put over: true at wave %d, or ! before the databases, into the file, so that no run begins them anew", c.Int("wave"))
			}
			return err
		},
	}
}

func fleetRenderCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "render", Usage: "print manifests in which each database has a process of its own", ArgsUsage: "FILE",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "kubernetes", Usage: "a Job of Kubernetes for each database"},
			&cli.StringFlag{Name: "image", Usage: "the image of walferry", DefaultText: "walferry"},
			&cli.IntFlag{Name: "wave", Usage: "only this wave"},
		},
		Action: func(c *cli.Context) error {
			if !c.Bool("kubernetes") {
				return &fail.Error{Kind: fail.Usage, Problem: "fleet render needs --kubernetes", Advice: "it is the only kind of manifest so far"}
			}
			f, err := resolved(ui, c)
			if err != nil {
				return err
			}
			if len(f.Problems) > 0 {
				return f.Problems[0].Err // a manifest without its databases would look complete
			}
			text, err := f.Kubernetes(fleet.Kubernetes{Image: c.String("image"), Wave: c.Int("wave")})
			if err != nil {
				return err
			}
			_, err = ui.stdout.Write(text)
			return writeErr(err)
		},
	}
}
