//! Which files of a crate import which, from their text without test modules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Module = Vec<String>;

/// The files of a crate and their imports. An import of a re-exported name counts for the file that defines it.
pub(crate) struct Imports {
    files: BTreeMap<Module, PathBuf>,
    /// The names that `use` brings into each file.
    names: BTreeMap<(Module, String), Module>,
}

/// The files below a folder, or the file itself.
pub(crate) fn files(of: &Path) -> Vec<PathBuf> {
    if of.is_file() {
        return vec![of.to_owned()];
    }
    std::fs::read_dir(of).unwrap().flat_map(|e| files(&e.unwrap().path())).collect()
}

impl Imports {
    /// Reads the crate in this folder.
    pub(crate) fn of(root: &Path) -> Self {
        let mut all = BTreeMap::new();
        for file in files(root).into_iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
            let path = file.strip_prefix(root).unwrap().with_extension("");
            let mut module: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            if module == ["lib"] {
                module.clear();
            }
            // Separate programs.
            if module.first().is_none_or(|first| first != "bin") {
                all.insert(module, file);
            }
        }
        let mut imports = Self { files: all, names: BTreeMap::new() };
        for (module, file) in imports.files.clone() {
            for (path, name) in imports.uses(&module, &tokens(&std::fs::read_to_string(file).unwrap())) {
                imports.names.insert((module.clone(), name), path);
            }
        }
        imports
    }

    /// Files that import each other in a circle, with the imports among them.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut edges: BTreeMap<&Module, BTreeSet<Module>> =
            self.files.keys().map(|module| (module, self.imports(module))).collect();
        // A file that imports nothing that is left, or that nothing left imports, is in no circle.
        loop {
            let left: BTreeSet<Module> = edges.keys().map(|module| (*module).clone()).collect();
            let imported: BTreeSet<Module> = edges.values().flatten().cloned().collect();
            edges.values_mut().for_each(|to| to.retain(|module| left.contains(module)));
            edges.retain(|module, to| !to.is_empty() && imported.contains(*module));
            if edges.len() == left.len() {
                break;
            }
        }
        let shown = |module: &Module| if module.is_empty() { "lib".to_owned() } else { module.join("/") };
        let line = |(module, to): (&&Module, &BTreeSet<Module>)| {
            format!("{} -> {}", shown(module), to.iter().map(shown).collect::<Vec<_>>().join(", "))
        };
        edges.iter().map(line).collect()
    }

    /// The files that a file imports.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let tokens = tokens(&std::fs::read_to_string(&self.files[module]).unwrap());
        let mut paths: Vec<Module> = self.uses(module, &tokens).into_iter().map(|(path, _)| path).collect();
        let mut at = 0;
        while at < tokens.len() {
            let begins = is_name(&tokens[at]) && (at == 0 || (tokens[at - 1] != "::" && tokens[at - 1] != "."));
            if tokens[at] == "use" {
                while tokens[at] != ";" {
                    at += 1;
                }
            } else if begins {
                let mut path = vec![tokens[at].clone()];
                while tokens.get(at + 1).is_some_and(|t| t == "::") && tokens.get(at + 2).is_some_and(|t| is_name(t)) {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                if path.len() > 1 {
                    paths.extend(self.absolute(module, &path));
                }
            }
            at += 1;
        }
        paths.iter().filter_map(|path| self.defined_in(path, 0)).filter(|to| to != module).collect()
    }

    /// Every path in a file's `use` items, with its local name.
    fn uses(&self, module: &Module, tokens: &[String]) -> Vec<(Module, String)> {
        let mut found = Vec::new();
        let mut rest = tokens.iter();
        while rest.by_ref().any(|token| token == "use") {
            let tree: Vec<&String> = rest.by_ref().take_while(|token| *token != ";").collect();
            let mut leaves = Vec::new();
            expand(&mut tree.into_iter().peekable(), &[], &mut leaves);
            for (mut path, alias) in leaves {
                if path.last().is_some_and(|last| last == "self" || last == "*") && path.len() > 1 {
                    path.pop();
                }
                let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
                found.extend(self.absolute(module, &path).map(|path| (path, name)));
            }
        }
        found
    }

    /// A path from the crate's root; `None` for other crates' paths and local names.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut base = module.clone();
        let mut rest = path;
        if rest.first()? == "crate" {
            return Some(rest[1..].to_vec());
        }
        while let Some(first) = rest.first().filter(|first| *first == "self" || *first == "super") {
            if first == "super" {
                base.pop()?;
            }
            rest = &rest[1..];
        }
        let is_child = || {
            let child: Module = base.iter().chain(rest.first()).cloned().collect();
            self.files.contains_key(&child)
        };
        (rest.len() < path.len() || is_child()).then(|| base.iter().chain(rest).cloned().collect())
    }

    /// The file that defines a path's name.
    fn defined_in(&self, path: &Module, depth: usize) -> Option<Module> {
        let length = (0..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n]))?;
        let module = path[..length].to_vec();
        let Some(name) = path.get(length) else { return Some(module) };
        match self.names.get(&(module.clone(), name.clone())) {
            // Two files may re-export each other's names.
            Some(other) if depth < 8 && other[..] != path[..=length] => {
                let other: Module = other.iter().chain(&path[length + 1..]).cloned().collect();
                self.defined_in(&other, depth + 1)
            }
            _ => Some(module),
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The leaves of a `use` tree: their paths, and the names given with `as`.
fn expand<'a>(
    tree: &mut std::iter::Peekable<impl Iterator<Item = &'a String>>,
    prefix: &[String],
    leaves: &mut Vec<(Module, Option<String>)>,
) {
    let mut path = prefix.to_vec();
    while let Some(token) = tree.next() {
        match token.as_str() {
            "::" => {}
            "{" => {
                while tree.peek().is_some_and(|next| *next != "}") {
                    expand(tree, &path, leaves);
                    tree.next_if(|next| *next == ",");
                }
                tree.next();
                return;
            }
            "as" => {
                let alias = tree.next().cloned();
                leaves.push((path, alias));
                return;
            }
            name => path.push(name.to_owned()),
        }
        if tree.peek().is_none_or(|next| *next == "," || *next == "}") {
            leaves.push((path, None));
            return;
        }
    }
}

/// Names and punctuation of a source text, without comments, literals, visibilities and test items.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            3 + raw.find("\"#").map_or(raw.len(), |end| end + 2)
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if c == '\'' {
            match rest[1..].chars().next() {
                Some('\\') => 2 + rest[3..].find('\'').map_or(rest.len() - 3, |end| end + 2),
                Some(one) if rest[1 + one.len_utf8()..].starts_with('\'') => one.len_utf8() + 2,
                _ => 1,
            }
        } else if is_name(rest) || c.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[length..];
    }
    without_visibilities(&without_tests(&tokens))
}

/// The index after the bracket that closes the one at `at`.
fn closed(tokens: &[String], at: usize) -> usize {
    let mut depth = 0usize;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return n + 1;
        }
    }
    tokens.len()
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let is_attribute = tokens[at] == "#" && tokens.get(at + 1).is_some_and(|t| t == "[");
        let end = if is_attribute { closed(tokens, at + 1) } else { at };
        let is_for_tests = is_attribute
            && tokens.get(at + 2).is_some_and(|t| t == "cfg")
            && tokens[at..end].iter().any(|t| t == "test")
            && !tokens[at..end].iter().any(|t| t == "not" || t == "any");
        if !is_for_tests {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at = end;
        while tokens.get(at).is_some_and(|t| t == "#") {
            at = closed(tokens, at + 1);
        }
        let is_public = tokens.get(at).is_some_and(|t| t == "pub");
        let after =
            if is_public && tokens[at + 1] == "(" { closed(tokens, at + 1) } else { at + usize::from(is_public) };
        let is_use = tokens.get(after).is_some_and(|t| t == "use");
        while at < tokens.len() && tokens[at] != ";" && (is_use || tokens[at] != "{") {
            at += 1;
        }
        at = if tokens.get(at).is_some_and(|t| t == "{") { closed(tokens, at) } else { at + 1 };
    }
    out
}

fn without_visibilities(tokens: &[String]) -> Vec<String> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let is_restricted = tokens[at] == "pub" && tokens.get(at + 1).is_some_and(|t| t == "(");
        at = if is_restricted {
            closed(tokens, at + 1)
        } else {
            out.push(tokens[at].clone());
            at + 1
        };
    }
    out
}

#[test]
fn imports_are_found_in_use_items_and_in_paths() {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("lib.rs", "pub mod a;\nmod b;\nmod c { pub(in crate::a) struct X; }\npub use b::B;"),
        ("a/mod.rs", "mod one;\nmod two;\npub use self::one::{One as First, Other};"),
        (
            "a/one.rs",
            "use super::two::Two;\npub struct One(&'static str, char);\nconst S: &str = \"crate::b\"; // crate::b",
        ),
        ("a/two.rs", "fn f<'a>() -> char { let _ = crate::a::First('\\'', \"\"); '}' }"),
        (
            "b.rs",
            "#[cfg(test)]\npub(crate) mod tests { use crate::a; }\n#[cfg(test)]\nuse {crate::a};\nuse std::fmt;\npub struct B;",
        ),
        ("d.rs", "use crate::{a::{self, Other}, B};"),
    ] {
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let imports = Imports::of(dir.path());
    let of = |module: &str| {
        let module: Module = module.split('/').map(str::to_owned).collect();
        imports.imports(&module).iter().map(|to| to.join("/")).collect::<Vec<_>>()
    };
    assert_eq!(of("a/one"), ["a/two"]);
    assert_eq!(of("a/two"), ["a/one"]);
    assert_eq!(of("b"), [""; 0]);
    assert_eq!(of("d"), ["a", "a/one", "b"]);
    assert_eq!(imports.circles(), ["a/one -> a/two", "a/two -> a/one"]);
}
