package web

import (
	"embed"
	"html/template"
	"net/http"
	"strings"
)

// files are the page. Beside what is written here it has uPlot, with its licence.
//
//go:embed page
var files embed.FS

// types are the files that are handed out, and what they are.
var types = map[string]string{
	"page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8",
	"uPlot.iife.min.js": "text/javascript; charset=utf-8", "uPlot.min.css": "text/css; charset=utf-8", "uPlot.LICENSE": "text/plain; charset=utf-8",
	"icon.svg": "image/svg+xml",
}

// assets hands out the files of the page.
func assets(at string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, at+"/assets/")
		if types[name] == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", types[name])
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeFileFS(w, r, files, "page/"+name)
	})
}

// servePage is that of one migration: what it shows comes by events.
func servePage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	http.ServeFileFS(w, r, files, "page/page.html")
}

var indexPage = template.Must(template.ParseFS(files, "page/list.html"))

// index lists several migrations.
func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	type entry struct{ Key, Phase, Lag, Problem string }
	var list []entry
	for _, v := range s.views {
		v.mu.Lock()
		e := entry{Key: v.Key, Problem: v.problem, Phase: "not read yet"}
		if v.status != nil {
			if e.Phase = string(v.status.Phase); e.Phase == "" {
				e.Phase = "no migration"
			}
			if !v.status.Running && e.Phase != "finished" && e.Phase != "aborted" && e.Phase != "no migration" {
				e.Phase += ", interrupted"
			}
		}
		v.mu.Unlock()
		list = append(list, e)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	indexPage.Execute(w, list) //nolint:errcheck // whoever asked may be gone
}
