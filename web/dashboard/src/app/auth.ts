// The token, if the server needs one. Kept for this tab only.
import { createContext, useContext } from 'react';

const KEY = 'nexus-token';

/** The token and how to change it. */
export interface Auth {
  token: string | undefined;
  setToken: (token: string | undefined) => void;
}

/** The token of the page. */
export const AuthContext = createContext<Auth>({ token: undefined, setToken: () => {} });

/** The token of the page. */
export function useAuth(): Auth {
  return useContext(AuthContext);
}

/** The token kept in this tab. */
export function storedToken(): string | undefined {
  try {
    return sessionStorage.getItem(KEY) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Stores a token in this tab, or removes it. */
export function storeToken(token: string | undefined): void {
  try {
    if (token === undefined) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // Then it holds until the page is left.
  }
}
